//! Users and groups, by the sandbox's own `/etc/passwd` and `/etc/group`.

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getgid, getuid};

/// Beyond this, an account file is cut.
const MAX_FILE: usize = 4 * 1024 * 1024;
/// How much of an account file is read at a time.
const FIRST_READ: usize = 3 * 1024;
/// The user of commands that name none, where the agent is root.
const DEFAULT_UID: u32 = 1000;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its supplementary groups, the primary one included.
    pub(crate) groups: Vec<u32>,
    /// Its name, or its number where it has none.
    pub(crate) name: Vec<u8>,
    pub(crate) home: Vec<u8>,
}

/// The account files, read when they are needed.
pub(crate) trait Database {
    /// The text of `/etc/passwd`; empty if there is none.
    fn users(&self) -> Vec<u8>;
    /// The text of `/etc/group`; empty if there is none.
    fn groups(&self) -> Vec<u8>;
}

/// The sandbox's own files.
#[derive(Debug)]
pub(crate) struct Files;

impl Database for Files {
    fn users(&self) -> Vec<u8> {
        read("/etc/passwd")
    }

    fn groups(&self) -> Vec<u8> {
        read("/etc/group")
    }
}

impl Account {
    /// The account for `user`, `uid`, `user:group` or `uid:gid`. A number needs no entry; without one
    /// its group has the same number. With a group given there are no supplementary ones.
    ///
    /// `Err` is what does not exist.
    pub(crate) fn resolve(spec: Option<&str>, files: &impl Database) -> Result<Self, String> {
        let Some(spec) = spec else {
            return Ok(Self::default_account(files));
        };
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let mut account = Self::find_user(user, files).ok_or_else(|| format!("user {user:?}"))?;
        match group {
            None => account.join_groups(&files.groups()),
            Some(group) => {
                account.gid = find_group(group, files).ok_or_else(|| format!("group {group:?}"))?;
                account.groups = vec![account.gid];
            }
        }
        Ok(account)
    }

    fn default_account(files: &impl Database) -> Self {
        let own = getuid();
        let uid = if own.is_root() {
            DEFAULT_UID
        } else {
            own.as_raw()
        };
        let mut account = Self::by_number(uid, &files.users());
        if own.is_root() {
            account.join_groups(&files.groups());
        } else {
            account.gid = getgid().as_raw();
            account.groups = vec![account.gid];
        }
        account
    }

    fn find_user(user: &str, files: &impl Database) -> Option<Self> {
        let users = files.users();
        let mut entries = entries(&users).filter_map(Self::parse);
        match entries.find(|entry| entry.name == user.as_bytes()) {
            Some(entry) => Some(entry),
            None => Some(Self::by_number(parse_number(user.as_bytes())?, &users)),
        }
    }

    fn by_number(uid: u32, users: &[u8]) -> Self {
        let entry = entries(users)
            .filter_map(Self::parse)
            .find(|entry| entry.uid == uid);
        entry.unwrap_or_else(|| Self {
            uid,
            gid: uid,
            groups: vec![uid],
            name: uid.to_string().into_bytes(),
            home: b"/".to_vec(),
        })
    }

    /// passwd(5): name, password, uid, gid, comment, home, shell.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_vec();
        let uid = parse_number(fields.nth(1)?)?;
        let gid = parse_number(fields.next()?)?;
        let home = match fields.nth(1) {
            None | Some(b"") => b"/".to_vec(),
            Some(home) => home.to_vec(),
        };
        Some(Self {
            uid,
            gid,
            groups: vec![gid],
            name,
            home,
        })
    }

    /// group(5): name, password, gid, members by name.
    fn join_groups(&mut self, groups: &[u8]) {
        for line in entries(groups) {
            let mut fields = line.split(|byte| *byte == b':');
            let gid = fields.nth(2).and_then(parse_number);
            let members = fields.next().unwrap_or_default();
            let mut members = members.split(|byte| *byte == b',');
            if let Some(gid) = gid.filter(|gid| !self.groups.contains(gid))
                && members.any(|member| member == self.name)
            {
                self.groups.push(gid);
            }
        }
    }
}

fn find_group(group: &str, files: &impl Database) -> Option<u32> {
    let groups = files.groups();
    let named = entries(&groups).find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (name == group.as_bytes())
            .then(|| fields.nth(1).and_then(parse_number))
            .flatten()
    });
    named.or_else(|| parse_number(group.as_bytes()))
}

fn entries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
}

/// A number of digits only. The largest stands for "no change" in the kernel, and is no user.
fn parse_number(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text)
        .ok()?
        .parse()
        .ok()
        .filter(|number| *number != u32::MAX)
}

/// Most account files fit in the first read: a command's start is counted in system calls.
fn read(path: &str) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut text = Vec::with_capacity(FIRST_READ);
    while text.len() < MAX_FILE {
        if text.capacity() == text.len() {
            text.reserve(FIRST_READ);
        }
        match rustix::io::read(&file, spare_capacity(&mut text)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Vec::new(),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Texts(&'static str, &'static str);

    impl Database for Texts {
        fn users(&self) -> Vec<u8> {
            self.0.as_bytes().to_vec()
        }

        fn groups(&self) -> Vec<u8> {
            self.1.as_bytes().to_vec()
        }
    }

    const FILES: Texts = Texts(
        "root:x:0:0:root:/root:/bin/sh\n# comment:x:5:5\nbroken\nada:x:1000:100:Ada:/home/ada:/bin/sh\n1234:x:77:77::/n:\nnohome:x:8:8\n",
        "root:x:0:\nusers:x:100:\ndocker:x:50:bob,ada\nvideo:x:44:ada\nnot:x:45:adam\n",
    );

    fn resolve(spec: &str) -> Result<Account, String> {
        Account::resolve(Some(spec), &FILES)
    }

    #[test]
    fn name_gives_home_and_all_groups() {
        let ada = resolve("ada").unwrap();
        assert_eq!((ada.uid, ada.gid), (1000, 100));
        assert_eq!(ada.groups, [100, 50, 44]);
        assert_eq!(ada.home, b"/home/ada");
    }

    #[test]
    fn number_finds_its_entry() {
        assert_eq!(resolve("1000"), resolve("ada"));
    }

    #[test]
    fn number_needs_no_entry() {
        let account = resolve("4000").unwrap();
        assert_eq!(
            (account.uid, account.gid, account.groups),
            (4000, 4000, vec![4000])
        );
        assert_eq!(
            (account.name, account.home),
            (b"4000".to_vec(), b"/".to_vec())
        );
        assert_eq!(resolve("5:7").unwrap().gid, 7);
    }

    #[test]
    fn name_of_digits_comes_before_the_number() {
        assert_eq!(resolve("1234").unwrap().uid, 77);
    }

    #[test]
    fn group_that_is_given_is_the_only_one() {
        let ada = resolve("ada:video").unwrap();
        assert_eq!((ada.gid, ada.groups), (44, vec![44]));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(resolve("eve"), Err("user \"eve\"".to_owned()));
        assert_eq!(resolve("ada:eve"), Err("group \"eve\"".to_owned()));
        assert_eq!(resolve(""), Err("user \"\"".to_owned()));
        assert_eq!(resolve("ada:"), Err("group \"\"".to_owned()));
        assert_eq!(resolve("-1"), Err("user \"-1\"".to_owned()));
        assert_eq!(resolve("4294967295"), Err("user \"4294967295\"".to_owned()));
    }

    #[test]
    fn entry_without_home_lives_in_the_root() {
        assert_eq!(resolve("nohome").unwrap().home, b"/");
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(text in prop::collection::vec(any::<u8>(), 0..300), user in ".{0,12}") {
            for line in entries(&text) {
                let _ = Account::parse(line);
            }
            let mut account = Account::by_number(3, &text);
            account.join_groups(&text);
            let _ = resolve(&user);
        }
    }
}
