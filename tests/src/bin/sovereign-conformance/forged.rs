//! Archives that no packer would make.

/// The header of an entry, without its data.
pub(crate) fn header(kind: u8, name: &[u8], link: &[u8], size: usize) -> Vec<u8> {
    owned_header(kind, name, link, size, (0, 0))
}

/// The same, of a file of this user and group.
pub(crate) fn owned_header(
    kind: u8,
    name: &[u8],
    link: &[u8],
    size: usize,
    (user, group): (u32, u32),
) -> Vec<u8> {
    // The fields of a header in POSIX.1-1988's form, "ustar".
    let number = |value: u64| format!("{value:011o}\0").into_bytes();
    let fields: [(usize, &[u8]); 10] = [
        (0, name),
        (
            100,
            if kind == b'5' {
                b"0000755\0"
            } else {
                b"0000644\0"
            },
        ),
        (108, &format!("{user:07o}\0").into_bytes()),
        (116, &format!("{group:07o}\0").into_bytes()),
        (124, &number(size as u64)),
        (136, &number(1_000_000_000)),
        (148, b"        "),
        (156, &[kind]),
        (157, link),
        (257, b"ustar\x0000"),
    ];
    let mut header = vec![0; 512];
    for (at, bytes) in fields {
        header.splice(at..at + bytes.len(), bytes.iter().copied());
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    header
}

/// A whole archive of these, each with its data.
pub(crate) fn archive(entries: &[(Vec<u8>, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (header, data) in entries {
        archive.extend_from_slice(header);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
