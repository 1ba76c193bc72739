//! Where the programs that belong to this engine are: beside the running program, in
//! `../libexec/sovereign`, or in the same places of an installation in the `PATH`; or where the
//! environment says. Cargo puts an example into a folder of its own, so for one the folder above that
//! is looked in too.

use std::env;
use std::path::{Path, PathBuf};

/// A program of this installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The virtual machine monitor, one process a sandbox.
    Vmm,
    /// The guest agent, which is put into images.
    Agent,
    /// The `sovereign` program itself, which is also the supervisor of detached sandboxes.
    Engine,
}

impl Program {
    /// The file's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vmm => "sovereign-vmm",
            Self::Agent => "sovereign-agent",
            Self::Engine => "sovereign",
        }
    }

    /// The environment variable that names the file.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Vmm => "SOVEREIGN_VMM",
            Self::Agent => "SOVEREIGN_AGENT",
            Self::Engine => "SOVEREIGN_PROGRAM",
        }
    }

    /// Finds the program.
    ///
    /// # Errors
    ///
    /// If it is in none of its places.
    pub fn find(self) -> Result<PathBuf, MissingProgram> {
        if let Some(path) = env::var_os(self.variable()).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            return if is_file(&path) {
                Ok(path)
            } else {
                Err(self.missing(vec![path]))
            };
        }
        let running = env::current_exe().ok();
        match self.places(running.as_deref()).find(|place| is_file(place)) {
            Some(place) => Ok(place),
            None => Err(self.missing(self.places(running.as_deref()).collect())),
        }
    }

    /// Where it may be: beside the running program, and where an installation in the `PATH` has it,
    /// for an embedder that is installed somewhere else.
    fn places(self, running: Option<&Path>) -> impl Iterator<Item = PathBuf> {
        let own = running.and_then(Path::parent);
        let above = own
            .filter(|folder| folder.ends_with("examples"))
            .and_then(Path::parent);
        let own = [own, above].map(|folder| folder.map(Path::to_owned));
        // Only asked for by those who did not find it beside themselves.
        let path = || env::var_os("PATH").unwrap_or_default();
        let along =
            std::iter::once_with(path).flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
        own.into_iter()
            .flatten()
            .chain(along)
            .flat_map(move |folder| {
                let libexec = folder
                    .parent()
                    .filter(|_| self != Self::Engine)
                    .map(|up| up.join("libexec/sovereign").join(self.name()));
                std::iter::once(folder.join(self.name())).chain(libexec)
            })
    }

    fn missing(self, places: Vec<PathBuf>) -> MissingProgram {
        MissingProgram {
            program: self,
            places,
        }
    }
}

/// A program of the installation that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is missing (looked for {})", program.name(), list(places))]
pub struct MissingProgram {
    /// The program.
    pub program: Program,
    /// Where it was looked for.
    pub places: Vec<PathBuf>,
}

impl MissingProgram {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        format!(
            "install it beside the sovereign program, or set {} to its path",
            self.program.variable()
        )
    }
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}

fn list(places: &[PathBuf]) -> String {
    // Those of the PATH are many, and the first ones tell enough.
    const TOLD: usize = 2;
    let told: Vec<_> = places
        .iter()
        .take(TOLD)
        .map(|place| place.display().to_string())
        .collect();
    match (told.is_empty(), places.len() > TOLD) {
        (true, _) => "nowhere".to_owned(),
        (false, false) => told.join(", "),
        (false, true) => format!("{}, and along the PATH", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_beside_the_running_one_and_in_libexec() {
        let places = Program::Vmm.places(Some(Path::new("/opt/s/bin/sovereign")));
        let places: Vec<_> = places.collect();
        let expected = [
            "/opt/s/bin/sovereign-vmm",
            "/opt/s/libexec/sovereign/sovereign-vmm",
        ];
        assert!(
            places.starts_with(&expected.map(PathBuf::from)),
            "{places:?}"
        );
    }

    #[test]
    fn an_example_finds_what_cargo_has_built_beside_its_folder() {
        let of = |running: &str| {
            let places: Vec<_> = Program::Agent.places(Some(Path::new(running))).collect();
            places.contains(&PathBuf::from("/w/target/debug/sovereign-agent"))
        };
        assert!(of("/w/target/debug/examples/pool"));
        assert!(of("/w/target/debug/sovereign"));
        assert!(!of("/w/target/debug/deps/pool"));
    }

    #[test]
    fn a_missing_program_is_named_with_its_places_and_its_variable() {
        let missing = Program::Agent.missing(vec![PathBuf::from("/nowhere/sovereign-agent")]);
        assert!(missing.to_string().contains("/nowhere/sovereign-agent"));
        assert!(missing.hint().contains("SOVEREIGN_AGENT"));
    }
}
