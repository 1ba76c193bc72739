//! T-APTS passes its own tests where it is used: in each tier, with that tier's Python.
//!
//! A sandbox has no pytest, so it is sent in, with the tests, as an archive on standard input.

use std::env;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use sovereign_tests::call::Sovereign;

use crate::suite::{Outcome, PASSED, Suite, skip};

/// The archive, as the gate makes it: `site` for Python's path, and `tests`.
const ARCHIVE: &str = "SOVEREIGN_E2E_PYTEST";

/// The package itself must be the one that is there.
const SCRIPT: &str = "mkdir t-apts-tests && cd t-apts-tests && tar -x || exit 99
    PYTHONPATH=$PYTHONPATH:$PWD/site python3 -B -m pytest -q -p no:cacheprovider tests";

const NAME: &str = "t_apts_passes_its_tests";

pub(crate) fn add(suite: &mut Suite) {
    suite.host("python", &[(NAME, in_tier_local)]);
    suite.engine("docker", "python", &[(NAME, in_tier_docker)]);
    suite.engine("podman", "python", &[(NAME, in_tier_podman)]);
    suite.guest("python", &[(NAME, in_tier_microvm)]);
}

fn in_tier_docker(sovereign: &Sovereign) -> Outcome {
    passes_in(sovereign, "docker")
}

fn in_tier_podman(sovereign: &Sovereign) -> Outcome {
    passes_in(sovereign, "podman")
}

fn in_tier_local(sovereign: &Sovereign) -> Outcome {
    passes_in(sovereign, "local")
}

fn in_tier_microvm(sovereign: &Sovereign) -> Outcome {
    passes_in(sovereign, "microvm")
}

fn passes_in(sovereign: &Sovereign, tier: &str) -> Outcome {
    let Some(archive) = env::var_os(ARCHIVE) else {
        return skip(format!("no pytest was packed ({ARCHIVE} is not set)"));
    };
    let answer = sovereign.call(["doctor", "--json"]).output()?.json()?;
    let tiers = answer["tiers"].as_array().context("no list of tiers")?;
    let found = tiers.iter().find(|row| row["tier"] == tier);
    let found = found.with_context(|| format!("doctor says nothing of tier {tier}"))?;
    if found["available"] != true {
        return skip(found["cause"].as_str().unwrap_or("no cause given"));
    }
    let archive = fs::read(&archive).with_context(|| format!("{archive:?}"))?;
    let call = sovereign.call(["run", "-q", "-i", "--tier", tier, "--", "sh", "-c", SCRIPT]);
    let call = call.stdin(archive).deadline(Duration::from_secs(600));
    let output = call.output()?;
    if output.errors().contains("no python3") || output.code() == Some(127) {
        return skip("there is no python3");
    }
    ensure!(output.code() == Some(0), "{output}");
    ensure!(output.text().contains(" passed"), "{output}");
    PASSED
}
