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
    let mut program = Vec::with_capacity(256);
    program.push(load(ARCHITECTURE));
    program.push(test(JUMP_EQUAL, THIS_ARCHITECTURE, To::Skip(0), To::Kill));
    program.push(load(NUMBER));
    search(&calls, &mut program)?;
    link(&program)
}

/// A system call and the sets of conditions of which one has to hold.
struct Call<'a> {
    number: u32,
    alternatives: Vec<&'a [Argument]>,
}

/// Where a test leads.
#[derive(Clone, Copy)]
enum To {
    /// To what follows, but for so many instructions.
    Skip(u8),
    /// To one of the two ends of the program, which all paths share: what the kernel compiles for
    /// each thread is half as long so.
    Allow,
    Kill,
}

/// An instruction before it is known where the program ends.
#[derive(Clone, Copy)]
struct Step {
    code: u16,
    value: u32,
    if_true: To,
    if_false: To,
}

/// The number is loaded; every path ends in one of the two ends.
fn search(calls: &[Call<'_>], program: &mut Vec<Step>) -> Result<(), ProgramError> {
    let (below, above) = calls.split_at(calls.len() / 2);
    let Some(middle) = above.first() else {
        return Ok(());
    };
    if below.is_empty() {
        return permit(middle, program);
    }
    let at = program.len();
    program.push(test(
        JUMP_GREATER_EQUAL,
        middle.number,
        To::Kill,
        To::Skip(0),
    ));
    search(below, program)?;
    let skipped = skip(program.len() - at - 1)?;
    if let Some(step) = program.get_mut(at) {
        step.if_true = skipped;
    }
    search(above, program)
}

/// Allows the call if one of its alternatives holds.
fn permit(call: &Call<'_>, program: &mut Vec<Step>) -> Result<(), ProgramError> {
    if call
        .alternatives
        .iter()
        .any(|conditions| conditions.is_empty())
    {
        program.push(test(JUMP_EQUAL, call.number, To::Allow, To::Kill));
        return Ok(());
    }
    program.push(test(JUMP_EQUAL, call.number, To::Skip(0), To::Kill));
    for (index, conditions) in call.alternatives.iter().enumerate() {
        let last = index + 1 == call.alternatives.len();
        // A load and a test for each condition; what fails goes on behind the last of them.
        let length = 2 * conditions.len();
        for (index, condition) in conditions.iter().enumerate() {
            let at = 2 * index + 1;
            let fails = match last {
                true => To::Kill,
                false => skip(length - at - 1)?,
            };
            let holds = if at + 1 == length {
                To::Allow
            } else {
                To::Skip(0)
            };
            let (word, code, value, if_true, if_false) = match *condition {
                Argument::Is(word, value) => (word, JUMP_EQUAL, value, holds, fails),
                Argument::Lacks(word, bits) => (word, JUMP_ANY_BIT, bits, fails, holds),
            };
            let value = u32::try_from(value).map_err(|_| ProgramError::Number)?;
            program.push(load(FIRST_ARGUMENT + 8 * u32::from(word)));
            program.push(test(code, value, if_true, if_false));
        }
    }
    Ok(())
}

/// Puts the two ends behind the program and directs everything to them.
fn link(steps: &[Step]) -> Result<BpfProgram, ProgramError> {
    let distance = |at: usize, to: To| {
        let skipped = match to {
            To::Skip(count) => return Ok(count),
            To::Allow => steps.len() - at - 1,
            To::Kill => steps.len() - at,
        };
        u8::try_from(skipped).map_err(|_| ProgramError::TooLong)
    };
    let mut program = Vec::with_capacity(steps.len() + 2);
    for (at, step) in steps.iter().enumerate() {
        program.push(match step.code {
            LOAD => instruction(LOAD, step.value),
            code => sock_filter {
                code,
                jt: distance(at, step.if_true)?,
                jf: distance(at, step.if_false)?,
                k: step.value,
            },
        });
    }
    program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    program.push(instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    Ok(program)
}

fn skip(count: usize) -> Result<To, ProgramError> {
    let count = u8::try_from(count).map_err(|_| ProgramError::TooLong)?;
    Ok(To::Skip(count))
}

fn load(offset: u32) -> Step {
    test(LOAD, offset, To::Skip(0), To::Skip(0))
}

fn test(code: u16, value: u32, if_true: To, if_false: To) -> Step {
    Step {
        code,
        value,
        if_true,
        if_false,
    }
}

fn instruction(code: u16, value: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k: value,
    }
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
