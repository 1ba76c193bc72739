//! Files of a sandbox, through commands, and through the package that agents call.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sovereign::ExecRequest;

use crate::facts::Need;
use crate::subject::{Runs, Subject, request, sh, sh_as};
use crate::suite::{Suite, case, needing};

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "files",
        [
            case("contents_come_back_unchanged", contents),
            case("modes_links_and_renames_work", operations),
            case("commands_of_one_sandbox_share_them", shared),
            case("other_sandboxes_have_their_own", not_shared),
            needing(
                "usual_places_can_be_written_to",
                &[Need::Walls],
                usual_places,
            ),
            needing("writes_vanish_with_their_sandbox", &[Need::Walls], vanish),
            needing("roots_writes_vanish_too", &[Need::OtherUsers], roots_writes),
            needing(
                "python_calls_write_read_and_search",
                &[Need::Python, Need::Apts],
                apts,
            ),
            needing(
                "python_calls_tell_errors",
                &[Need::Python, Need::Apts],
                apts_errors,
            ),
        ],
    );
}

fn contents(subject: &Subject) -> Result<()> {
    let bytes: Vec<u8> = (0..=u8::MAX).rev().cycle().take(3_000_001).collect();
    let write = ExecRequest {
        stdin: true,
        ..sh("cat > 'a file'; wc -c < 'a file'")
    };
    subject.output(write, &bytes)?.says("3000001")?;
    let read = subject.run(["cat", "a file"])?;
    ensure!(
        read.stdout == bytes,
        "{} bytes came back",
        read.stdout.len()
    );
    subject.sh("rm 'a file'")?.ends_with(0)
}

fn operations(subject: &Subject) -> Result<()> {
    let script = "mkdir -p ops/a/b && cd ops && echo 'echo ran' > a/tool && chmod 750 a/tool && \
                  ls -l a/tool | cut -c 1-10 && sh a/tool && ln -s a/tool link && cat link && \
                  mv a/tool a/b/moved && test ! -e link && cat a/b/moved && ln a/b/moved hard && \
                  rm a/b/moved && cat hard && cd .. && rm -r ops && test ! -e ops && echo gone";
    let ran = "-rwxr-x---\nran\necho ran\necho ran\necho ran\ngone";
    subject.sh(script)?.says(ran)
}

fn shared(subject: &Subject) -> Result<()> {
    subject.sh("echo kept > shared")?.ends_with(0)?;
    subject.run(["cat", "shared"])?.says("kept")
}

fn not_shared(subject: &Subject) -> Result<()> {
    subject
        .sh("echo mine > own-7 && mkdir -p own-8")?
        .ends_with(0)?;
    let other = subject.start(|_| ())?;
    other
        .sh("ls -d own-7 own-8 2>/dev/null; echo none")?
        .says("none")?;
    other.sh("echo theirs > own-7")?.ends_with(0)?;
    subject.run(["cat", "own-7"])?.says("mine")
}

fn usual_places(subject: &Subject) -> Result<()> {
    let script = "for folder in \"$HOME\" /tmp /var/tmp /dev/shm; do \
                  echo x > \"$folder/place\" && cat \"$folder/place\" && rm \"$folder/place\"; done";
    subject.sh(script)?.says("x\nx\nx\nx")
}

fn vanish(subject: &Subject) -> Result<()> {
    let places = "~/mark-7 /tmp/mark-7 /var/tmp/mark-7 /dev/shm/mark-7";
    let first = subject.start(|_| ())?;
    first.sh(&format!("touch {places}"))?.ends_with(0)?;
    drop(first);
    let second = subject.start(|_| ())?;
    second
        .sh(&format!("ls -d {places} 2>/dev/null; echo none"))?
        .says("none")?;
    for place in ["/tmp/mark-7", "/var/tmp/mark-7", "/dev/shm/mark-7"] {
        ensure!(
            !std::path::Path::new(place).exists(),
            "{place} is on the host"
        );
    }
    Ok(())
}

fn roots_writes(subject: &Subject) -> Result<()> {
    let script = "echo x > /usr/mark-7; echo x > /etc/mark-7; rm -f /etc/hostname; echo done";
    let first = subject.start(|_| ())?;
    first.output(sh_as("root", script), b"")?.ends_with(0)?;
    drop(first);
    let second = subject.start(|_| ())?;
    let script = "ls -d /usr/mark-7 /etc/mark-7 2>/dev/null; echo none";
    second.output(sh_as("root", script), b"")?.says("none")?;
    for place in ["/usr/mark-7", "/etc/mark-7"] {
        ensure!(
            !std::path::Path::new(place).exists(),
            "{place} is on the host"
        );
    }
    Ok(())
}

/// The answer to a call of the package.
fn call(subject: &Subject, name: &str, arguments: &Value) -> Result<Value> {
    let request = ExecRequest {
        stdin: true,
        ..request(["python3", "-m", "terminai_apts", name])
    };
    let ended = subject.output(request, arguments.to_string().as_bytes())?;
    serde_json::from_slice(&ended.stdout).with_context(|| ended.to_string())
}

fn apts(subject: &Subject) -> Result<()> {
    let text = "one\ntwo \u{e4}\nthree\n";
    let wrote = call(
        subject,
        "write_file",
        &json!({ "path": "apts/deep/text", "content": text, "create_parents": true }),
    )?;
    ensure!(wrote["ok"] == true, "{wrote}");
    let read = call(subject, "read_file", &json!({ "path": "apts/deep/text" }))?;
    ensure!(read["result"] == text, "{read}");
    let found = call(
        subject,
        "search_files",
        &json!({ "root": "apts", "content": "two" }),
    )?;
    let path = found["result"]["matches"][0]["path"]
        .as_str()
        .unwrap_or_default();
    ensure!(path.ends_with("deep/text"), "{found}");
    ensure!(found["result"]["matches"][0]["line"] == 2, "{found}");
    subject
        .sh("cat apts/deep/text; rm -r apts")?
        .says(text.trim())
}

fn apts_errors(subject: &Subject) -> Result<()> {
    for (name, arguments) in [
        ("read_file", json!({ "path": "/no/such/file" })),
        ("read_file", json!({ "path": "/tmp" })),
        (
            "write_file",
            json!({ "path": "/no/such/folder/file", "content": "" }),
        ),
        ("no_such_call", json!({})),
    ] {
        let answer = call(subject, name, &arguments)?;
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            answer["ok"] == false && !told.is_empty(),
            "{name} {arguments}: {answer}"
        );
    }
    Ok(())
}
