//! Sandboxes that outlive their creator: names, starts, ends, and who is told of them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sovereign::detached::DetachedError;
use sovereign::registry::record::{Ending, Status};
use sovereign::registry::{Name, RegistryError, State};
use sovereign::supervisor::OwnCommand;
use sovereign::{Detached, ErrorKind, Policy, Tier};
use sovereign_tests::host::is_running;

use crate::desk::{record, start, state, written};
use crate::roles::{Player, Role};
use crate::subject::{Runs, Subject, request, sh, wait_until};
use crate::suite::{Suite, case};

/// What those that are to end by themselves are given, and what they may take beyond it.
const LIFE: Duration = Duration::from_millis(1500);
const IDLE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(30);

pub(crate) fn add(suite: &mut Suite) {
    suite.add(
        "lives",
        [
            case("from_creation_to_removal", whole_life),
            case("end_with_their_command_and_keep_its_result", own_command),
            case("outlive_their_creator", creator_goes),
            case("end_with_an_owner_that_is_killed", owner_goes),
            case("names_belong_to_one_and_can_change", names),
            case("of_two_starters_one_starts_it", two_starters),
            case("end_when_their_time_is_up", durations),
            case("are_dead_without_their_supervisor", killed_supervisor),
            case("restart_in_the_tier_that_they_had", recorded_tier),
            case("keep_their_home_over_a_stop", stopped_home),
            case("keep_their_home_when_killed", killed_home),
        ],
    );
}

fn whole_life(subject: &Subject) -> Result<()> {
    let desk = subject.desk()?;
    let own = desk.create(Some("life"), |plan| {
        plan.labels.insert("team".to_owned(), "blue".to_owned());
    })?;
    ensure!(state(&own)? == State::Created);
    let told = own.exec(request(["true"]));
    ensure!(told.is_err(), "a command ran in what was never started");
    start(&own)?;
    let known = record(&own)?;
    let place = known.place.as_ref().context("no tier is recorded")?;
    ensure!(state(&own)? == State::Running && known.name.as_str() == "life");
    ensure!(known.plan.labels.get("team").is_some_and(|it| it == "blue"));
    ensure!((place.tier, place.isolation) == (subject.facts.tier, subject.facts.isolation));
    own.run(["echo", "in"])?.says("in")?;
    let id = own.entry().id().as_str();
    for wanted in ["life", id, id.get(..6).unwrap_or(id)] {
        let found = Detached::find(&desk.registry, wanted)?;
        ensure!(found.entry().id() == own.entry().id(), "{wanted}");
    }
    for refused in [start(&own).map(drop), own.remove(false).map(drop)] {
        let told = matches!(refused, Err(DetachedError::Running { .. }));
        ensure!(told, "not refused while it runs: {refused:?}");
    }
    let ending = own.stop(Duration::from_secs(5))?;
    ensure!(ending == Ending::Stopped && ending.exit_code() == 143);
    ensure!(state(&own)? == State::Exited && own.wait(None)? == ending);
    start(&own)?;
    own.run(["echo", "again"])?.says("again")?;
    let ending = own.kill()?;
    ensure!(ending == Ending::Killed && ending.exit_code() == 137);
    own.remove(false)?;
    let gone = Detached::find(&desk.registry, "life");
    let is_gone = matches!(
        gone,
        Err(DetachedError::Registry(RegistryError::NoSuchSandbox { .. }))
    );
    ensure!(is_gone, "it is still known");
    Ok(())
}

fn own_command(subject: &Subject) -> Result<()> {
    let desk = subject.desk()?;
    let own = desk.start(|plan| plan.command = Some(sh("sleep 0.3; echo out; exit 7")))?;
    let endings = thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| own.wait(None))).collect();
        waiting
            .into_iter()
            .map(|thread| Ok(thread.join().map_err(|_| anyhow!("a thread panicked"))??))
            .collect::<Result<Vec<_>>>()
    })?;
    for ending in endings.into_iter().chain([own.wait(None)?]) {
        let told = matches!(&ending, Ending::Command { report } if report.code == Some(7));
        ensure!(told, "{ending:?}");
    }
    ensure!(written(&own, 0)? == ("out\n".to_owned(), true));
    let passing = desk.create(None, |plan| {
        plan.command = Some(sh("exit 0"));
        plan.remove = true;
    })?;
    start(&passing)?;
    wait_until("what was to be removed when it ends is gone", || {
        Ok(passing.entry().read().is_err())
    })
}

fn creator_goes(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.create(None, |_| ())?;
    Player::start(Role::Creator, &own, b"")?.wait()?;
    ensure!(state(&own)? == State::Running);
    own.run(["echo", "alone"])?.says("alone")?;
    own.kill()?;
    Ok(())
}

fn owner_goes(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.create(None, |_| ())?;
    let owner = Player::start(Role::Owner, &own, b"")?;
    own.run(["echo", "owned"])?.says("owned")?;
    let process = holder(&own)?;
    owner.kill();
    let ending = own.wait(None)?;
    ensure!(ending == Ending::OwnerGone, "{ending:?}");
    wait_until("its process is gone", || Ok(!is_running(process)))
}

/// The process that holds a sandbox that runs.
fn holder(sandbox: &Detached) -> Result<u32> {
    match record(sandbox)?.status {
        Status::Running { process, .. } => Ok(u32::try_from(process)?),
        status => bail!("it does not run: {status:?}"),
    }
}

fn names(subject: &Subject) -> Result<()> {
    for bad in ["", "-a", "a b", "a/b", "..", "a\n"] {
        ensure!(bad.parse::<Name>().is_err(), "{bad:?} is a name");
    }
    let desk = subject.desk()?;
    let (registry, plan) = (&desk.registry, record(&desk.shared()?)?.plan);
    let made: Vec<_> = thread::scope(|scope| {
        let create = || Detached::create(registry, "only".parse().ok(), plan.clone());
        let creating: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        creating
            .into_iter()
            .filter_map(|it| it.join().ok())
            .collect()
    });
    let (own, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    ensure!((own.len(), refused.len()) == (1, 3), "{refused:?}");
    for refusal in refused {
        let told = matches!(
            refusal,
            Err(DetachedError::Registry(RegistryError::NameTaken { .. }))
        );
        ensure!(told, "{refusal:?}");
    }
    let own = Detached::find(registry, "only")?;
    own.rename("rested".parse()?)?;
    let running = desk.shared()?;
    running.rename("busy".parse()?)?;
    ensure!(
        Detached::find(registry, "only").is_err(),
        "the old name is still there"
    );
    ensure!(Detached::find(registry, "rested")?.entry().id() == own.entry().id());
    ensure!(Detached::find(registry, "busy")?.entry().id() == running.entry().id());
    let taken = running.rename("rested".parse()?);
    ensure!(taken.is_err(), "it took the name of another one");
    ensure!(record(&running)?.name.as_str() == "busy");
    own.remove(false)?;
    Ok(())
}

fn two_starters(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.create(None, |_| ())?;
    let started: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = (0..2).map(|_| scope.spawn(|| start(&own))).collect();
        starting
            .into_iter()
            .filter_map(|it| it.join().ok())
            .collect()
    });
    let count = started.iter().filter(|it| it.is_ok()).count();
    ensure!((started.len(), count) == (2, 1), "{started:?}");
    own.run(["echo", "one"])?.says("one")?;
    own.kill()?;
    Ok(())
}

fn durations(subject: &Subject) -> Result<()> {
    let desk = subject.desk()?;
    let began = Instant::now();
    let short = desk.start(|plan| {
        plan.command = Some(sh("sleep 7020"));
        plan.max_duration = Some(LIFE);
    })?;
    let ending = short.wait(None)?;
    ensure!(
        ending == Ending::MaxDuration && ending.exit_code() == 124,
        "{ending:?}"
    );
    ensure!(began.elapsed() < LIFE + 2 * SLACK, "{:?}", began.elapsed());
    let idle = desk.start(|plan| plan.idle_timeout = Some(IDLE))?;
    // As long as something is done in it, it is not idle.
    idle.sh("sleep 4; echo busy")?.says("busy")?;
    let began = Instant::now();
    ensure!(state(&idle)? == State::Running);
    let ending = idle.wait(None)?;
    ensure!(ending == Ending::IdleTimeout, "{ending:?}");
    ensure!(began.elapsed() < IDLE + SLACK, "{:?}", began.elapsed());
    Ok(())
}

fn killed_supervisor(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.start(|_| ())?;
    kill_supervisor(&own)?;
    let told = own.wait(None)?;
    ensure!(
        matches!(&told, Ending::Broken { problem } if problem.code == ErrorKind::SupervisorKilled)
    );
    ensure!(
        own.exec(request(["true"])).is_err(),
        "a command runs in what is dead"
    );
    start(&own)?;
    own.run(["echo", "back"])?.says("back")?;
    own.kill()?;
    Ok(())
}

/// Kills the supervisor of a sandbox that runs, and waits until both are gone.
fn kill_supervisor(sandbox: &Detached) -> Result<()> {
    let held = holder(sandbox)?;
    let Status::Running { supervisor, .. } = record(sandbox)?.status else {
        bail!("it does not run");
    };
    let supervisor = Pid::from_raw(i32::try_from(supervisor)?).context("no process")?;
    kill_process(supervisor, Signal::KILL)?;
    wait_until("it is dead", || Ok(state(sandbox)? == State::Dead))?;
    wait_until("its process is gone", || Ok(!is_running(held)))
}

fn recorded_tier(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.start(|_| ())?;
    own.kill()?;
    // Whatever else would be allowed now.
    let mut known = record(&own)?;
    known.plan.policy = Policy {
        allow_local: true,
        ..Policy::default()
    };
    own.entry().hold()?.write(&known)?;
    start(&own)?;
    let place = record(&own)?.place.context("no tier is recorded")?;
    ensure!(place.tier == subject.facts.tier, "{place:?}");
    own.kill()?;
    // One that this machine cannot have.
    let mut known = record(&own)?;
    if let Some(place) = &mut known.place {
        place.tier = Tier::AppContainer;
    }
    own.entry().hold()?.write(&known)?;
    let refused = own.start(OwnCommand::Held, None);
    ensure!(refused.is_err(), "it runs in another tier than it had");
    ensure!(state(&own)? == State::Failed);
    let place = record(&own)?.place.context("no tier is recorded")?;
    ensure!(place.tier == Tier::AppContainer, "{place:?}");
    Ok(())
}

fn stopped_home(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.start(|_| ())?;
    write_home(&own, ":")?;
    // Also what only the first life wrote is there in the third one.
    for life in 2..=3 {
        own.stop(Duration::from_secs(5))?;
        start(&own)?;
        look_home(&own).with_context(|| format!("in life {life}"))?;
    }
    own.kill()?;
    own.remove(false)?;
    // What has been removed is gone: the next one begins with nothing.
    let next = subject.desk()?.start(|_| ())?;
    next.sh("test ! -e \"$HOME/kept\"")?.says("")?;
    next.kill()?;
    Ok(())
}

fn killed_home(subject: &Subject) -> Result<()> {
    let own = subject.desk()?.start(|_| ())?;
    // A machine that is killed keeps what was synced; the rest it may lose.
    write_home(&own, "sync file folder .")?;
    kill_supervisor(&own)?;
    start(&own)?;
    look_home(&own)?;
    own.kill()?;
    Ok(())
}

/// Writes a file with a mode and a time of its own, and a link to it, below the home. Then does
/// something more.
fn write_home(sandbox: &Detached, then: &str) -> Result<()> {
    let script = format!(
        "mkdir \"$HOME/kept\" && cd \"$HOME/kept\" && echo text > file && chmod 640 file && \
         touch -d @1000000000 file && ln -s file link && mkdir -m 710 folder && {then}"
    );
    sandbox.sh(&script)?.says("")
}

/// That all of it is there, and can be changed by whose it is.
fn look_home(sandbox: &Detached) -> Result<()> {
    let look = "cd \"$HOME/kept\" && cat link && readlink link && stat -c '%a %Y' file && \
                stat -c %a folder && test -O file && echo more > folder/more && rm folder/more";
    let found = sandbox.sh(look)?;
    found.says("text\nfile\n640 1000000000\n710")
}
