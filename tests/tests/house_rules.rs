//! House rules that neither rustc nor clippy can check.
//!
//! Reads the source tree as text. Needs no KVM, no network and no dependency.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `vmm`, lowest first. A module imports from itself and from those before it.
const VMM_LAYERS: &[&str] = &[
    "config", "control", "stop", "memory", "kvm", "bus", "cmdline", "devices", "arch", "vcpu",
    "machine", "confine", "process",
];

/// Which of our crates each of them may depend on. Cargo refuses circles; this refuses shortcuts.
const ARROWS: &[(&str, &[&str])] = &[
    ("vmm", &[]),
    ("guest-agent/protocol", &[]),
    ("guest-agent/archive", &[]),
    ("guest-agent/client", &["agent-archive", "agent-protocol"]),
    ("guest-agent", &["agent-archive", "agent-protocol"]),
    ("sandbox-image", &[]),
    (
        "host-cli",
        &["agent-client", "agent-protocol", "sandbox-image", "vmm"],
    ),
    ("tests/engines", &[]),
    ("tests/lab", &["sandbox-image"]),
    (
        "tests",
        &[
            "sandbox-image",
            "sovereign",
            "sovereign-engines",
            "sovereign-lab",
        ],
    ),
    (
        "benches",
        &[
            "agent-client",
            "sandbox-image",
            "sovereign",
            "sovereign-engines",
            "sovereign-lab",
            "sovereign-tests",
            "vmm",
        ],
    ),
];

/// The only files that may opt in to `unsafe`.
const UNSAFE_ROOMS: &[&str] = &[
    "guest-agent/src/linux/confine/mount_attributes.rs",
    "guest-agent/src/linux/confine/namespaces.rs",
    "guest-agent/src/linux/fork.rs",
    "host-cli/src/cli/signals.rs",
    "host-cli/src/tier/spawn.rs",
    "vmm/src/devices/virtio/block/syscalls.rs",
    "vmm/src/kvm/failure.rs",
    "vmm/src/memory/mapping.rs",
];

/// Names that say nothing of what a module holds.
const EMPTY_NAMES: &[&str] = &[
    "base", "common", "helper", "helpers", "manager", "misc", "util", "utils",
];

const MAX_PRODUCTION_LINES: usize = 500;

#[test]
fn vmm_modules_import_only_downwards() {
    let root = workspace().join("vmm/src");
    let mut broken = Vec::new();
    for file in rust_files(&root) {
        let module = top_module(&root, &file);
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let Some(rank) = layer(&module) else {
            broken.push(format!("{}: module `{module}` has no layer", shown(&file)));
            continue;
        };
        for (number, import) in crate_imports(&production_text(&file)) {
            match layer(&import) {
                Some(other) if other <= rank => {}
                Some(_) => broken.push(format!(
                    "{}:{number}: `{module}` imports `{import}`, a higher layer",
                    shown(&file)
                )),
                None => broken.push(format!(
                    "{}:{number}: `{module}` imports `{import}` from the crate root",
                    shown(&file)
                )),
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let ours: Vec<_> = ARROWS
        .iter()
        .map(|(folder, _)| package_name(folder))
        .collect();
    let mut broken = Vec::new();
    for (folder, allowed) in ARROWS {
        for dependency in dependencies(folder) {
            if ours.contains(&dependency) && !allowed.contains(&dependency.as_str()) {
                broken.push(format!("{folder} depends on {dependency}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_crate_has_its_arrows() {
    let manifest = read(&workspace().join("Cargo.toml"));
    let members = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(
            ARROWS.iter().any(|(folder, _)| *folder == member),
            "{member} has no arrows"
        );
    }
}

#[test]
fn unsafe_is_confined_and_justified() {
    let mut broken = Vec::new();
    for file in rust_files(&workspace()) {
        let room = UNSAFE_ROOMS
            .iter()
            .any(|room| file == workspace().join(room));
        let mut justified = false;
        for (number, line) in read(&file).lines().enumerate() {
            let line = line.trim();
            let place = format!("{}:{}", shown(&file), number + 1);
            if line.starts_with("// UNSAFETY: ") {
                justified = true;
            } else if line.starts_with("#![expect(unsafe_code")
                || line.starts_with("#[expect(unsafe_code")
            {
                if !room {
                    broken.push(format!("{place}: unsafe outside its rooms"));
                } else if !justified {
                    broken.push(format!("{place}: no UNSAFETY comment above"));
                }
            } else if !line.starts_with("//") {
                justified = false;
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_rooms_are_not_empty() {
    for room in UNSAFE_ROOMS {
        let text = read(&workspace().join(room));
        assert!(
            text.contains("expect(unsafe_code"),
            "{room} needs no unsafe: take it off the list"
        );
    }
}

#[test]
fn files_stay_small() {
    let long: Vec<_> = rust_files(&workspace())
        .into_iter()
        .filter(|file| !is_test_code(file))
        .map(|file| (production_text(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_PRODUCTION_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines", shown(&file)))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn modules_are_named_for_what_they_hold() {
    let empty: Vec<_> = rust_files(&workspace())
        .into_iter()
        .filter(|file| {
            let relative = file.strip_prefix(workspace()).unwrap().with_extension("");
            relative
                .iter()
                .any(|part| EMPTY_NAMES.contains(&part.to_string_lossy().as_ref()))
        })
        .map(|file| shown(&file))
        .collect();
    assert!(empty.is_empty(), "{}", empty.join("\n"));
}

#[test]
fn files_open_with_what_they_are_for() {
    let silent: Vec<_> = rust_files(&workspace())
        .into_iter()
        .filter(|file| {
            // Below what licenses a file to be unsafe, at the most.
            let text = read(file);
            !text.lines().take(12).any(|line| line.starts_with("//!"))
        })
        .map(|file| shown(&file))
        .collect();
    assert!(
        silent.is_empty(),
        "no //! at the top of:\n{}",
        silent.join("\n")
    );
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        "todo!(",
        "unimplemented!(",
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        "dbg!(",
    ];
    let mut found = Vec::new();
    for file in rust_files(&workspace()) {
        if file.ends_with(file!()) {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let here = workspace();
    if here.components().count() < 3 {
        return; // A workspace right below the root: its path is an ordinary word.
    }
    let here = format!("{}/", here.display());
    let mut found = Vec::new();
    for file in text_files(&workspace()) {
        for (number, line) in read(&file).lines().enumerate() {
            if line.contains(&here) {
                found.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ sits in the workspace")
        .to_owned()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(workspace())
        .unwrap_or(file)
        .display()
        .to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn layer(module: &str) -> Option<usize> {
    VMM_LAYERS.iter().position(|layer| *layer == module)
}

fn package_name(folder: &str) -> String {
    let manifest = read(&workspace().join(folder).join("Cargo.toml"));
    let line = manifest
        .lines()
        .find(|line| line.starts_with("name = "))
        .expect("a package name");
    line.trim_start_matches("name = ")
        .trim_matches('"')
        .to_owned()
}

/// The dependencies that are no dev-dependencies.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = read(&workspace().join(folder).join("Cargo.toml"));
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-");
        } else if let Some(end) = line.find(['.', ' ', '=']).filter(|_| inside) {
            names.push(line[..end].to_owned());
        }
    }
    names
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = text_files(dir);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// The files of the tree that are written by people, by the ends of their names.
fn text_files(dir: &Path) -> Vec<PathBuf> {
    let ends = [
        "rs", "toml", "md", "sh", "py", "config", "yml", "yaml", "Makefile", "run",
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory is readable") {
        let path = entry.expect("entry is readable").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                found.extend(text_files(&path));
            }
        } else if ends.contains(&name.rsplit('.').next().unwrap_or_default()) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a file is compiled for tests alone: `src/**/tests.rs` or `src/**/tests/**`.
fn is_test_code(file: &Path) -> bool {
    let relative = file.strip_prefix(workspace()).unwrap_or(file);
    let below_src = relative.iter().skip_while(|part| *part != "src");
    below_src
        .into_iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

/// The text before the unit tests.
fn production_text(file: &Path) -> String {
    let text = read(file);
    match text.find("#[cfg(test)]\nmod ") {
        Some(tests) => text[..tests].to_owned(),
        None => text,
    }
}

fn top_module(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).expect("file is under root");
    let first = relative.iter().next().unwrap_or_default().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Line number and first path segment of every `crate::` path that is not in a comment.
fn crate_imports(text: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            imports.push((number + 1, rest[..end].to_owned()));
        }
    }
    imports
}
