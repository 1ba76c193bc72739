//! What is changed in the kernel's source, because no option of its configuration does it.
//!
//! Each edit takes work out of a guest's boot and nothing else; what each is worth is in README.md
//! beside the configuration. An edit that does not find its place is an error of the build: a newer
//! source has to be looked at.

use std::fs;
use std::path::Path;

use super::{KernelError, failed};

/// Replaces the one place where a file says `from`. That it was replaced shows by `to`.
struct Edit {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const EDITS: &[Edit] = &[
    // Nobody reads /sys/kernel/slab and /sys/module/*/parameters in a sandbox.
    Edit {
        file: "mm/slub.c",
        from: "\nlate_initcall(slab_late_init);\n",
        to: "\n/* no late_initcall(slab_late_init) */\n",
    },
    Edit {
        file: "kernel/params.c",
        from: "\nlate_initcall(param_sysfs_builtin_init);\n",
        to: "\n/* no late_initcall(param_sysfs_builtin_init) */\n",
    },
    // A kernel without Xen's support need not ask 256 times whether it runs on Xen: every CPUID is
    // an exit to the hypervisor.
    Edit {
        file: "arch/x86/platform/pvh/enlighten.c",
        from: "u32 msr = xen_cpuid_base();",
        to: "u32 msr = IS_ENABLED(CONFIG_XEN) ? xen_cpuid_base() : 0;",
    },
    // The entry code has huge pages of its own for page table isolation, and the part of .bss that
    // encrypted guests share for memory encryption: neither is configured.
    Edit {
        file: "arch/x86/kernel/vmlinux.lds.S",
        from: "#define ALIGN_ENTRY_TEXT_BEGIN\t. = ALIGN(PMD_SIZE);",
        to: "#define ALIGN_ENTRY_TEXT_BEGIN /* no isolation */",
    },
    Edit {
        file: "arch/x86/kernel/vmlinux.lds.S",
        from: "#define ALIGN_ENTRY_TEXT_END\t. = ALIGN(PMD_SIZE);",
        to: "#define ALIGN_ENTRY_TEXT_END /* no isolation */",
    },
    Edit {
        file: "arch/x86/kernel/vmlinux.lds.S",
        from: "\n\t\tBSS_DECRYPTED\n",
        to: "\n\t\t*(.bss..decrypted)\n",
    },
];

/// All edits as text: it is among what decides whether a kernel in the cache is the one wanted.
pub(super) fn text() -> String {
    let edits = EDITS.iter().map(|edit| [edit.file, edit.from, edit.to]);
    edits.flatten().flat_map(|part| [part, "\0"]).collect()
}

/// Makes the edits in `tree`, but for those that an interrupted build has made.
///
/// # Errors
/// If a file does not have the place to edit exactly once.
pub(super) fn apply(tree: &Path) -> Result<(), KernelError> {
    EDITS.iter().try_for_each(|edit| edit.apply(tree))
}

impl Edit {
    fn apply(&self, tree: &Path) -> Result<(), KernelError> {
        let path = tree.join(self.file);
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        match text.matches(self.from).count() {
            0 if text.contains(self.to) => Ok(()),
            1 => fs::write(&path, text.replacen(self.from, self.to, 1))
                .map_err(failed("write", &path)),
            found => Err(KernelError::Edit {
                path,
                wanted: self.from.trim(),
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDIT: Edit = Edit {
        file: "a.c",
        from: "\ncall(a);\n",
        to: "\n/* no call(a) */\n",
    };

    #[test]
    fn the_one_place_is_replaced_once_and_the_rest_left() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("a.c"), "int a;\ncall(a);\nint b;\n").unwrap();
        EDIT.apply(tree.path()).unwrap();
        EDIT.apply(tree.path()).unwrap();
        let text = fs::read_to_string(tree.path().join("a.c")).unwrap();
        assert_eq!(text, "int a;\n/* no call(a) */\nint b;\n");
    }

    #[test]
    fn source_without_the_place_or_with_two_is_an_error_that_names_it() {
        let tree = tempfile::tempdir().unwrap();
        for text in ["int a;\n", "\ncall(a);\n\ncall(a);\n"] {
            fs::write(tree.path().join("a.c"), text).unwrap();
            let error = EDIT.apply(tree.path()).unwrap_err().to_string();
            assert!(
                error.contains("a.c") && error.contains("call(a);"),
                "{error}"
            );
        }
    }
}
