//! What is refused before anything is started, on any machine.

use std::time::Duration;

use anyhow::{Result, ensure};
use sovereign_tests::call::Sovereign;

use crate::suite::{Outcome, PASSED, Suite};

pub(crate) fn add(suite: &mut Suite) {
    suite.host(
        "limits",
        &[
            (
                "too_little_memory_is_refused_with_the_least",
                too_little_memory_is_refused,
            ),
            (
                "memory_beyond_the_hosts_is_refused",
                memory_beyond_the_hosts_is_refused,
            ),
            (
                "cpu_counts_out_of_range_are_refused",
                cpu_counts_out_of_range_are_refused,
            ),
            (
                "limits_of_a_command_that_make_no_sense_are_refused",
                limits_of_a_command_that_make_no_sense_are_refused,
            ),
            ("a_missing_command_is_refused", a_missing_command_is_refused),
            ("an_unknown_flag_is_refused", an_unknown_flag_is_refused),
            (
                "a_named_tier_is_never_replaced",
                a_named_tier_is_never_replaced,
            ),
        ],
    );
}

/// Checks that `sovereign run ARGS` is refused at once with these words.
fn refused(sovereign: &Sovereign, args: &[&str], words: &[&str]) -> Result<()> {
    let output = sovereign.call(["run"].iter().chain(args)).output()?;
    ensure!(output.code() == Some(125), "{output}");
    ensure!(output.wall < Duration::from_secs(5), "{output}");
    for word in words {
        ensure!(
            output.errors().contains(word),
            "{word:?} is not mentioned: {output}"
        );
    }
    Ok(())
}

fn too_little_memory_is_refused(sovereign: &Sovereign) -> Outcome {
    refused(sovereign, &["-m", "16M", "true"], &["16", "at least 32"])?;
    refused(sovereign, &["-m", "0", "true"], &["at least 32"])?;
    PASSED
}

fn memory_beyond_the_hosts_is_refused(sovereign: &Sovereign) -> Outcome {
    refused(sovereign, &["-m", "1000T", "true"], &["memory"])?;
    PASSED
}

fn cpu_counts_out_of_range_are_refused(sovereign: &Sovereign) -> Outcome {
    refused(sovereign, &["--cpus", "33", "true"], &["33", "32"])?;
    refused(sovereign, &["--cpus", "0", "true"], &["1 to 32"])?;
    refused(sovereign, &["--cpus", "two", "true"], &["two"])?;
    PASSED
}

fn limits_of_a_command_that_make_no_sense_are_refused(sovereign: &Sovereign) -> Outcome {
    let cases: [(&str, &[&str]); 6] = [
        ("--rlimit=nofiles=3", &["did you mean nofile?", "rtprio"]),
        ("--rlimit=nofile", &["NAME=SOFT"]),
        ("--rlimit=nofile=many", &["is no limit for nofile"]),
        ("--rlimit=nofile=9:3", &["9, is above the hard one, 3"]),
        ("--pid-limit=0", &["1 to 4194304"]),
        ("--pid-limit=x", &["1 to 4194304"]),
    ];
    for (flag, words) in cases {
        refused(sovereign, &[flag, "--", "true"], words)?;
    }
    PASSED
}

fn a_missing_command_is_refused(sovereign: &Sovereign) -> Outcome {
    refused(sovereign, &[], &["COMMAND"])?;
    PASSED
}

fn an_unknown_flag_is_refused(sovereign: &Sovereign) -> Outcome {
    refused(sovereign, &["--no-such-flag", "true"], &["--no-such-flag"])?;
    PASSED
}

/// AppContainer is of Windows: asked for by name here, it is an error and nothing else is run.
fn a_named_tier_is_never_replaced(sovereign: &Sovereign) -> Outcome {
    refused(
        sovereign,
        &["--tier", "appcontainer", "true"],
        &["appcontainer"],
    )?;
    PASSED
}
