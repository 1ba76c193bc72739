//! System call filters, compiled once and applied by each thread to itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::rules::{Allowed, Argument, rules};
use crate::machine::ThreadRole;

/// A filter cannot be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no such processor.
    #[error("system call filters are not available for this processor")]
    Architecture(#[source] BackendError),
    /// Rules contradict each other.
    #[error("compiling the filter of {role:?} threads")]
    Compile {
        /// Whose filter.
        role: ThreadRole,
        /// Why.
        #[source]
        source: BackendError,
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
    /// When a rule is not valid on this processor.
    pub fn compile(roles: &[ThreadRole], sockets: PathSockets) -> Result<Self, FilterError> {
        let programs = roles
            .iter()
            .map(|role| Ok((*role, compile(*role, sockets, SeccompAction::KillProcess)?)))
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

fn compile(
    role: ThreadRole,
    sockets: PathSockets,
    otherwise: SeccompAction,
) -> Result<BpfProgram, FilterError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(FilterError::Architecture)?;
    let failed = |source| FilterError::Compile { role, source };
    let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for allowed in rules(role, sockets) {
        let conditions = table.entry(allowed.call).or_default();
        if !allowed.arguments.is_empty() {
            conditions.push(rule(allowed).map_err(failed)?);
        }
    }
    SeccompFilter::new(table, otherwise, SeccompAction::Allow, arch)
        .and_then(BpfProgram::try_from)
        .map_err(failed)
}

fn rule(allowed: &Allowed) -> Result<SeccompRule, BackendError> {
    let conditions = allowed
        .arguments
        .iter()
        .map(|argument| {
            let (index, operator, value) = match *argument {
                Argument::Is(index, value) => (index, SeccompCmpOp::Eq, value),
                Argument::Lacks(index, bits) => (index, SeccompCmpOp::MaskedEq(bits), 0),
            };
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}
