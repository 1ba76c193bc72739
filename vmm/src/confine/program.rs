//! From a table of allowed system calls to the program that the kernel runs for each of them.
//!
//! The calls are found by binary search. That is not for the calls' sake, but for the start: when a
//! filter is applied, the kernel tries it with every call number, and with a program that compares one
//! after the other, as `seccompiler` generates it, this alone takes half a million instructions a
//! thread.

use seccompiler::{BpfProgram, sock_filter};

use super::rules::{Allowed, Argument};

/// Instructions (Linux, include/uapi/linux/bpf_common.h): load a word of the call's data, jump if
/// equal, if greater or equal, if any bit is set, and return.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `struct seccomp_data` (Linux, include/uapi/linux/seccomp.h): call number, architecture, and the low
/// word of the first of the 64-bit arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// `AUDIT_ARCH_X86_64` (Linux, include/uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const THIS_ARCHITECTURE: u32 = 0xc000_003e;

/// The rules do not make a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// A number in a rule is not one of a system call or an argument.
    #[error("a system call rule has a number that is out of range")]
    Number,
    /// A jump would be longer than an instruction can express.
    #[error("there are too many system call rules")]
    TooLong,
}

/// Generates the program that allows these calls and kills the process for any other.
pub(super) fn assemble<'a>(
    rules: impl Iterator<Item = &'a Allowed>,
) -> Result<BpfProgram, ProgramError> {
    let mut calls: Vec<Call<'a>> = Vec::with_capacity(64);
    for rule in rules {
        let number = u32::try_from(rule.call).map_err(|_| ProgramError::Number)?;
        match calls.iter_mut().find(|call| call.number == number) {
            Some(call) => call.alternatives.push(rule.arguments),
            None => calls.push(Call {
                number,
                alternatives: vec![rule.arguments],
            }),
        }
    }
    calls.sort_by_key(|call| call.number);
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE),
        jump(JUMP_EQUAL, THIS_ARCHITECTURE, 1, 0),
        kill(),
        instruction(LOAD, NUMBER),
    ];
    program.extend(search(&calls)?);
    Ok(program)
}

/// A system call and the sets of conditions of which one has to hold.
struct Call<'a> {
    number: u32,
    alternatives: Vec<&'a [Argument]>,
}

/// The number is loaded; every path ends with a return.
fn search(calls: &[Call<'_>]) -> Result<BpfProgram, ProgramError> {
    let (below, above) = calls.split_at(calls.len() / 2);
    let Some(middle) = above.first() else {
        return Ok(vec![kill()]);
    };
    if below.is_empty() {
        let mut program = vec![jump(JUMP_EQUAL, middle.number, 1, 0), kill()];
        program.extend(permit(&middle.alternatives)?);
        return Ok(program);
    }
    let (below, above) = (search(below)?, search(above)?);
    let mut program = vec![jump(
        JUMP_GREATER_EQUAL,
        middle.number,
        distance(&below)?,
        0,
    )];
    program.extend(below);
    program.extend(above);
    Ok(program)
}

/// The call is one of those in question: allow it if one of the alternatives holds.
fn permit(alternatives: &[&[Argument]]) -> Result<BpfProgram, ProgramError> {
    let mut program = Vec::new();
    for conditions in alternatives {
        let mut checks = vec![allow()];
        for condition in conditions.iter().rev() {
            let (index, check) = match *condition {
                Argument::Is(index, value) => (index, (JUMP_EQUAL, value, 0, distance(&checks)?)),
                Argument::Lacks(index, bits) => {
                    (index, (JUMP_ANY_BIT, bits, distance(&checks)?, 0))
                }
            };
            let (code, value, if_true, if_false) = check;
            let value = u32::try_from(value).map_err(|_| ProgramError::Number)?;
            let word = FIRST_ARGUMENT + 8 * u32::from(index);
            let check = [
                instruction(LOAD, word),
                jump(code, value, if_true, if_false),
            ];
            checks.splice(0..0, check);
        }
        program.extend(checks);
    }
    program.push(kill());
    Ok(program)
}

/// The length of code that a jump skips.
fn distance(skipped: &BpfProgram) -> Result<u8, ProgramError> {
    u8::try_from(skipped.len()).map_err(|_| ProgramError::TooLong)
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter {
        code,
        jt: if_true,
        jf: if_false,
        k: value,
    }
}

fn instruction(code: u16, value: u32) -> sock_filter {
    jump(code, value, 0, 0)
}

fn allow() -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ALLOW)
}

fn kill() -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS)
}

#[cfg(test)]
mod tests {
    use super::super::filters::PathSockets;
    use super::super::rules::rules;
    use super::*;
    use crate::machine::ThreadRole;

    const ROLES: [ThreadRole; 3] = [ThreadRole::Vcpu, ThreadRole::Io, ThreadRole::Disk];

    /// A system call as a filter sees it.
    #[derive(Clone, Copy)]
    struct Attempt {
        architecture: u32,
        number: u32,
        arguments: [u32; 6],
    }

    impl Attempt {
        fn of(number: u32, arguments: [u32; 6]) -> Self {
            Self {
                architecture: THIS_ARCHITECTURE,
                number,
                arguments,
            }
        }

        fn word(&self, offset: u32) -> u32 {
            match offset {
                NUMBER => self.number,
                ARCHITECTURE => self.architecture,
                _ => self.arguments[(offset - FIRST_ARGUMENT) as usize / 8],
            }
        }
    }

    /// Runs the program as the kernel does; also returns how many instructions it took.
    fn run(program: &BpfProgram, attempt: &Attempt) -> (bool, usize) {
        let (mut accumulator, mut at, mut steps) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            (at, steps) = (at + 1, steps + 1);
            let holds = match code {
                LOAD => {
                    accumulator = attempt.word(k);
                    continue;
                }
                RETURN => return (k == libc::SECCOMP_RET_ALLOW, steps),
                JUMP_EQUAL => accumulator == k,
                JUMP_GREATER_EQUAL => accumulator >= k,
                JUMP_ANY_BIT => accumulator & k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    /// What the rules say, read one by one.
    fn allowed(role: ThreadRole, sockets: PathSockets, attempt: &Attempt) -> bool {
        rules(role, sockets).any(|rule| {
            let number = u32::try_from(rule.call).unwrap();
            number == attempt.number
                && rule.arguments.iter().all(|argument| match *argument {
                    Argument::Is(index, value) => {
                        u64::from(attempt.arguments[usize::from(index)]) == value
                    }
                    Argument::Lacks(index, bits) => {
                        u64::from(attempt.arguments[usize::from(index)]) & bits == 0
                    }
                })
        })
    }

    /// Every number that a rule compares with, and its neighbours.
    fn interesting() -> Vec<u32> {
        let mut values = vec![0, 1, u32::MAX];
        for role in ROLES {
            for argument in rules(role, PathSockets::Yes).flat_map(|rule| rule.arguments) {
                let (Argument::Is(_, value) | Argument::Lacks(_, value)) = *argument;
                let value = u32::try_from(value).unwrap();
                values.extend([value, value ^ 1, value.wrapping_add(1)]);
            }
        }
        values.sort_unstable();
        values.dedup();
        values
    }

    #[test]
    fn program_allows_what_the_rules_allow_and_nothing_else() {
        let values = interesting();
        for (role, sockets) in ROLES
            .map(|role| (role, PathSockets::No))
            .into_iter()
            .chain([(ThreadRole::Io, PathSockets::Yes)])
        {
            let program = assemble(rules(role, sockets)).unwrap();
            for number in 0..600 {
                for value in &values {
                    let attempt = Attempt::of(number, [*value; 6]);
                    let expected = allowed(role, sockets, &attempt);
                    assert_eq!(
                        run(&program, &attempt).0,
                        expected,
                        "{role:?} {number} {value:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn other_architectures_are_refused() {
        let program = assemble(rules(ThreadRole::Io, PathSockets::No)).unwrap();
        let number = u32::try_from(libc::SYS_write).unwrap();
        let native = Attempt::of(number, [0; 6]);
        assert!(run(&program, &native).0);
        assert!(
            !run(
                &program,
                &Attempt {
                    architecture: 0x4000_0003,
                    ..native
                }
            )
            .0
        );
        // The x32 calls have the same architecture and a bit of their own in the number.
        assert!(
            !run(
                &program,
                &Attempt {
                    number: number | 0x4000_0000,
                    ..native
                }
            )
            .0
        );
    }

    #[test]
    fn any_call_is_decided_in_a_few_instructions() {
        for role in ROLES {
            let program = assemble(rules(role, PathSockets::Yes)).unwrap();
            let most = (0..600)
                .map(|number| run(&program, &Attempt::of(number, [0; 6])).1)
                .max();
            assert!(most.unwrap() <= 18, "{role:?}: {most:?}");
        }
    }
}
