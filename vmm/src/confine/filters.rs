//! System call filters, compiled once and applied by each thread to itself.

use std::sync::Arc;

use seccompiler::{BpfProgram, apply_filter};

use super::program::{ProgramError, assemble};
use super::rules::rules;
use crate::machine::ThreadRole;

/// A filter cannot be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The rules do not make a program.
    #[error("compiling the filter of {role:?} threads")]
    Compile {
        /// Whose filter.
        role: ThreadRole,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// The kernel refused it.
    #[error("applying the filter of {role:?} threads")]
    Apply {
        /// Whose filter.
        role: ThreadRole,
        /// Why.
        #[source]
        source: seccompiler::Error,
    },
    /// There is none for this kind of thread.
    #[error("there is no filter for {0:?} threads")]
    Missing(ThreadRole),
}

/// Whether a machine listens on a path of the file system, which takes more system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSockets {
    /// It does.
    Yes,
    /// All its streams are passed to it.
    No,
}

/// The filters of a machine's threads.
#[derive(Debug, Clone)]
pub struct Filters {
    programs: Arc<Vec<(ThreadRole, BpfProgram)>>,
}

impl Filters {
    /// Compiles the filters for these kinds of threads.
    ///
    /// # Errors
    /// When the rules do not make a program.
    pub fn compile(roles: &[ThreadRole], sockets: PathSockets) -> Result<Self, FilterError> {
        let compile = |role| match assemble(rules(role, sockets)) {
            Ok(program) => Ok((role, program)),
            Err(source) => Err(FilterError::Compile { role, source }),
        };
        let programs = roles
            .iter()
            .copied()
            .map(compile)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            programs: Arc::new(programs),
        })
    }

    /// Applies the filter of this role to the calling thread, for good.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn apply(&self, role: ThreadRole) -> Result<(), FilterError> {
        let program = self.programs.iter().find(|(of, _)| *of == role);
        let (_, program) = program.ok_or(FilterError::Missing(role))?;
        apply_filter(program).map_err(|source| FilterError::Apply { role, source })
    }
}
