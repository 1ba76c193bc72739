//! What can be told of an image without a sandbox: what its manifest says, against this engine.

use agent_protocol::frame::PROTOCOL_VERSION;
use sandbox_image::manifest::{Initramfs, Userland};
use sandbox_image::{Manifest, agent, apts};

use super::inside::{OLDEST_PYTHON, is_at_least};
use super::{Judgement, Report};
use crate::error::chain;
use crate::installation::Program;

/// The name that T-APTS has among the packages of a manifest.
const PACKAGE: &str = "terminai-apts";

/// What to do about an image of another release.
const BUILD: &str = "build it again: sovereign image build";

/// Makes these checks.
pub(super) fn check(manifest: &Manifest, report: &mut Report) {
    report.add("agent-of-image", None, agent_of_image(&manifest.initramfs));
    report.add("agent-installed", None, agent_installed());
    report.add(
        "contents",
        None,
        contents(manifest.rootfs.contents.as_ref()),
    );
}

/// The agent that an image has for its microVM is of this release.
fn agent_of_image(image: &Initramfs) -> Judgement {
    let found = told(&image.agent_release, image.agent_protocol);
    if agrees(&image.agent_release, image.agent_protocol) {
        Judgement::passed(found)
    } else {
        Judgement::failed(format!("{found}, and this is {}; {BUILD}", ours()))
    }
}

/// So is the agent of the other tiers.
fn agent_installed() -> Judgement {
    let path = match Program::Agent.find() {
        Ok(path) => path,
        // The tiers that need it say so.
        Err(missing) => return Judgement::skipped(missing.to_string()),
    };
    match agent::version(&path) {
        Ok((release, protocol)) if agrees(&release, protocol) => {
            Judgement::passed(told(&release, protocol))
        }
        Ok((release, protocol)) => Judgement::failed(format!(
            "{} is {}, and this is {}; install both of one release",
            path.display(),
            told(&release, protocol),
            ours()
        )),
        Err(error) => Judgement::failed(chain(&error)),
    }
}

/// What was found in the root file system when it was built.
fn contents(contents: Option<&Userland>) -> Judgement {
    let Some(contents) = contents else {
        return Judgement::skipped("it is a root file system of one's own");
    };
    if !is_at_least(&contents.python, OLDEST_PYTHON) {
        return Judgement::failed(format!("Python is {}", contents.python));
    }
    match contents.packages.get(PACKAGE).map(String::as_str) {
        Some(apts::VERSION) => Judgement::passed(format!(
            "{}, Python {}, T-APTS {}",
            contents.system,
            contents.python,
            apts::VERSION
        )),
        Some(other) => Judgement::failed(format!(
            "T-APTS is {other}, and of this release it is {}; {BUILD}",
            apts::VERSION
        )),
        None => Judgement::failed(format!("there is no T-APTS in it; {BUILD}")),
    }
}

fn agrees(release: &str, protocol: Option<u16>) -> bool {
    release == env!("CARGO_PKG_VERSION") && protocol == Some(PROTOCOL_VERSION)
}

fn ours() -> String {
    told(env!("CARGO_PKG_VERSION"), Some(PROTOCOL_VERSION))
}

fn told(release: &str, protocol: Option<u16>) -> String {
    match protocol {
        Some(protocol) => format!("release {release}, protocol {protocol}"),
        None => format!("release {release}, of unknown protocol"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sandbox_image::digest::Digest;
    use sandbox_image::manifest::{Blob, User};

    use super::*;
    use crate::contract::Verdict;

    fn userland(python: &str, apts: Option<&str>) -> Userland {
        let apts = apts.map(|version| (PACKAGE.to_owned(), version.to_owned()));
        Userland {
            system: "Debian".to_owned(),
            version: "12".to_owned(),
            python: python.to_owned(),
            packages: apts.into_iter().collect::<BTreeMap<_, _>>(),
            user: User {
                name: "sandbox".to_owned(),
                uid: 1000,
                gid: 1000,
                home: "/home/sandbox".to_owned(),
            },
        }
    }

    #[test]
    fn an_image_without_t_apts_or_with_an_old_python_fails() {
        let result = |python, apts| contents(Some(&userland(python, apts))).result;
        assert_eq!(result("3.11.2", Some(apts::VERSION)), Verdict::Passed);
        assert_eq!(result("3.10.9", Some(apts::VERSION)), Verdict::Failed);
        assert_eq!(result("3.11.2", Some("0.0.1")), Verdict::Failed);
        assert_eq!(result("3.11.2", None), Verdict::Failed);
        assert_eq!(contents(None).result, Verdict::Skipped);
    }

    #[test]
    fn an_agent_of_another_release_or_protocol_fails() {
        let result = |release: &str, agent_protocol| {
            let blob = Blob {
                digest: Digest::of(b""),
                size: 0,
            };
            let image = Initramfs {
                blob,
                agent_release: release.to_owned(),
                agent_protocol,
            };
            agent_of_image(&image).result
        };
        let release = env!("CARGO_PKG_VERSION");
        assert_eq!(result(release, Some(PROTOCOL_VERSION)), Verdict::Passed);
        assert_eq!(result(release, Some(PROTOCOL_VERSION + 1)), Verdict::Failed);
        assert_eq!(result(release, None), Verdict::Failed);
        assert_eq!(result("0.0.0", Some(PROTOCOL_VERSION)), Verdict::Failed);
    }
}
