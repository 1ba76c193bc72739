//! Much data goes through, and none of it stays.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sovereign_tests::host::{kib_field, processes};

use super::Desk;
use crate::suite::{Outcome, PASSED};

/// How large the file is that comes out; 10240 shows it for 10 GiB.
const SIZE: &str = "SOVEREIGN_E2E_FILE_MIB";
const SIZE_MIB: u64 = 256;
/// How large the file is that goes in, which the sandbox has to keep.
const INTO_MIB: usize = 64;
/// What each process on the way may have had at the most.
const MOST_KIB: u64 = 40 * 1024;
/// More than all pipes and credit on the way hold: while so much is not read, nobody has ended.
const REST: u64 = 8 << 20;
const MIB: usize = 1 << 20;

/// Client, supervisor and agent hold no more of a large file than of a small one.
pub(super) fn files_of_any_size_cost_no_memory(desk: &Desk) -> Outcome {
    let mib = match env::var(SIZE) {
        Ok(text) => text.parse().with_context(|| format!("{SIZE}={text}"))?,
        Err(_) => SIZE_MIB,
    };
    // The file has holes where the sandbox keeps it, and none on its way.
    let script = format!("truncate -s {mib}M large; echo end >> large; sleep 3600");
    desk.start(&["--name", "it", "--", "sh", "-c", &script])?;
    let size = (mib << 20) + 4;
    desk.eventually("the file is there", || {
        let told = desk.call(["exec", "it", "--", "stat", "-c", "%s", "large"]);
        Ok(told.output()?.text().trim() == size.to_string())
    })?;
    comes_out(desk, size)?;
    goes_in(desk)?;
    PASSED
}

fn comes_out(desk: &Desk, size: u64) -> Result<()> {
    let patience = Duration::from_secs(120 + size / (10 << 20));
    let mut cat = desk.call(["fs", "cat", "it", "large"]);
    cat = cat.deadline(patience);
    let mut cat = cat.start()?;
    let mut stdout = cat.take_stdout()?;
    let mut errors = cat.take_stderr()?;
    let mut buffer = vec![0; MIB];
    let mut got = 0;
    let mut looked = false;
    let mut last = Vec::new();
    loop {
        if !looked && got + REST > size {
            nobody_holds_it(desk, cat.pid())?;
            looked = true;
        }
        let count = stdout.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let data = &buffer[..count];
        got += u64::try_from(count)?;
        if got < size - 4 {
            ensure!(data.iter().all(|byte| *byte == 0), "not what was written");
        } else {
            last.extend_from_slice(data);
        }
    }
    let status = cat.wait()?;
    let mut said = String::new();
    errors.read_to_string(&mut said)?;
    ensure!(status.success(), "{status}: {said}");
    ensure!(got == size && last.ends_with(b"\0end\n"), "{got} bytes");
    Ok(())
}

fn goes_in(desk: &Desk) -> Result<()> {
    let mut write = desk.call(["fs", "write", "it", "new"]).start()?;
    let mut stdin = write.take_stdin()?;
    let block = vec![7; MIB];
    for _ in 1..INTO_MIB {
        stdin.write_all(&block)?;
    }
    nobody_holds_it(desk, write.pid())?;
    takes_a_lane(write.pid())?;
    stdin.write_all(&block)?;
    drop(stdin);
    let status = write.wait()?;
    ensure!(status.success(), "{status}");
    let size = desk.says(&["exec", "it", "--", "stat", "-c", "%s", "new"])?;
    ensure!(size.trim() == (INTO_MIB * MIB).to_string(), "{size}");
    Ok(())
}

/// The client, of whose data much has gone over, still has the memory of a lane: an agent that takes none
/// has it give that up.
fn takes_a_lane(client: u32) -> Result<()> {
    let maps = fs::read_to_string(format!("/proc/{client}/maps"))?;
    ensure!(maps.contains("memfd:sovereign-lane"), "no lane: {maps}");
    Ok(())
}

/// The most that each process on the way has ever had in memory is little. (An agent in a guest is
/// not seen from here: it has the guest's memory.)
fn nobody_holds_it(desk: &Desk, client: u32) -> Result<()> {
    let mut on_the_way = vec![client];
    on_the_way.extend(desk.supervisors()?);
    let agents = processes()?
        .into_iter()
        .filter(|process| process.name == "sovereign-agent");
    on_the_way.extend(agents.map(|agent| agent.pid));
    for pid in on_the_way {
        // An agent of somebody else's may be gone by now.
        let Ok(most) = kib_field(&format!("/proc/{pid}/status"), "VmHWM") else {
            ensure!(pid != client, "the client has ended early");
            continue;
        };
        ensure!(most < MOST_KIB, "process {pid} had {most} KiB in memory");
    }
    Ok(())
}
