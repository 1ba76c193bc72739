//! Who a command runs as. These need an agent that is root.

use agent_protocol::message::ExecRequest;

use crate::agent::Agent;

/// Whether the test can be made here; says so if not.
fn can_change_user() -> bool {
    let is_root = rustix::process::getuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

fn id(agent: &Agent, user: Option<&str>) -> String {
    let request = ExecRequest {
        user: user.map(str::to_owned),
        ..ExecRequest::new(["sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"])
    };
    let output = agent.run(request).unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn default_user_is_not_root() {
    if can_change_user() {
        let text = id(&Agent::start(), None);
        assert!(text.starts_with("1000 "), "{text}");
    }
}

#[test]
fn root_can_be_asked_for() {
    if can_change_user() {
        assert!(id(&Agent::start(), Some("root")).starts_with("0 0 0"));
    }
}

#[test]
fn numbers_need_no_entry() {
    if can_change_user() {
        assert_eq!(
            id(&Agent::start(), Some("54321:54322")),
            "54321 54322 54322 /"
        );
        assert_eq!(id(&Agent::start(), Some("54321")), "54321 54321 54321 /");
    }
}

#[test]
fn users_own_streams_can_be_opened_by_name() {
    if can_change_user() {
        let request = ExecRequest {
            user: Some("54321".to_owned()),
            stdin: true,
            ..ExecRequest::new([
                "sh",
                "-c",
                "cat /dev/stdin >/dev/stdout; echo x >/dev/stderr",
            ])
        };
        let output = Agent::start().exec(request).output(b"in", 100).unwrap();
        assert_eq!(
            (output.stdout, output.stderr),
            (b"in".to_vec(), b"x\n".to_vec())
        );
    }
}

#[test]
fn user_cannot_reach_the_agent() {
    if can_change_user() {
        let request = ExecRequest {
            user: Some("54321".to_owned()),
            ..ExecRequest::new(["sh", "-c", "kill -9 $PPID 2>/dev/null || echo refused"])
        };
        assert_eq!(Agent::start().run(request).unwrap().stdout, b"refused\n");
    }
}
