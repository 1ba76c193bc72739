//! Sandboxes that outlive their creator: the same tests on every tier.

mod bulk;
mod clients;
mod console;
mod desk;
mod ends;
mod environment;
mod files;
mod full_disk;
mod kept;
mod killed_copy;
mod life;
mod limits;
mod names;
mod odd_files;
mod progress;
mod records;
mod usage;
mod volumes;
mod watchers;

use crate::suite::{Suite, Test};
use bulk::files_of_any_size_cost_no_memory;
use clients::{
    clients_wait_for_descriptors, long_command_is_use_to_its_end,
    many_long_commands_are_held_and_told, what_a_client_runs_is_told_to_end,
    what_nobody_reads_holds_nobody_up,
};
use console::console_is_kept_or_told_to_be_none;
pub(crate) use desk::{Desk, with};
use ends::{
    client_of_another_release_can_kill, owner_that_hears_of_no_start_is_gone,
    waiting_for_a_command_outlives_the_sandbox, why_it_broke_is_told,
};
use environment::environment_comes_from_files;
use files::{
    archive_keeps_who_files_belong_to, files_go_in_out_and_between,
    files_have_no_more_time_than_they_are_given, full_host_is_told, full_sandbox_is_told,
};
use full_disk::{
    damaged_log_is_shown_as_far_as_it_goes, full_disk_costs_no_result,
    moment_of_a_full_disk_spoils_no_log,
};
use kept::{
    disk_is_bounded_or_refused, full_disk_of_the_host_is_the_guests_error,
    what_is_written_outlives_a_killed_sandbox, what_is_written_outlives_a_stop_until_it_is_removed,
};
use killed_copy::killed_copy_leaves_nothing_for_long;
use life::{
    attached_user_types_and_reads, command_goes_on_alone_and_its_result_is_kept,
    end_is_kept_and_told, interrupted_start_leaves_nothing,
    killed_supervisor_leaves_a_dead_sandbox_that_can_start_again, lives_are_bounded,
    owner_that_is_killed_takes_a_named_sandbox_along, removed_folder_ends_its_sandbox,
    removed_when_it_ends_if_asked, results_outlive_the_sandbox_and_numbers_go_on,
    sandbox_outlives_its_creator, start_and_stay_tells_all, stop_is_gentle_first,
    stopped_supervisor_is_told_and_can_be_killed,
};
use limits::{limits_of_a_command_hold, pid_limit_holds_or_is_refused};
use names::names_of_a_sandbox_command_no_terminal;
use odd_files::{devices_pipes_and_sockets_stay_what_they_are, what_tells_no_size_is_copied_whole};
use progress::{
    archive_is_not_written_to_a_terminal, copy_shows_bytes_and_rate_on_a_terminal_alone,
};
use records::{
    events_tell_what_happened, full_state_folder_is_named_and_left_empty,
    misuse_is_told_with_the_remedy, name_belongs_to_one_of_many, state_folder_need_not_be_text,
};
use usage::{looking_is_no_use, usage_is_measured};
use volumes::{
    forced_removal_says_what_stays, prune_removes_volumes_whose_sandbox_is_gone,
    removal_without_the_engine_is_told_and_can_be_forced,
};
use watchers::{whoever_only_looks_dies_of_the_signal, whoever_reads_no_more_ends_it_silently};

/// The tests, each on every tier.
macro_rules! on_every_tier {
    ($suite:expr, $($name:ident),+ $(,)?) => {
        let local: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "local", $name))),+];
        let guest: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "microvm", $name))),+];
        $suite.host("detached", local);
        with_an_engine!($suite, $($name),+);
        $suite.guest("detached", guest);
    };
}

/// The tests, each with each container engine.
macro_rules! with_an_engine {
    ($suite:expr, $($name:ident),+ $(,)?) => {
        let docker: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "docker", $name))),+];
        let podman: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "podman", $name))),+];
        $suite.engine("docker", "detached", docker);
        $suite.engine("podman", "detached", podman);
    };
}

pub(crate) fn add(suite: &mut Suite) {
    on_every_tier!(
        suite,
        sandbox_outlives_its_creator,
        end_is_kept_and_told,
        command_goes_on_alone_and_its_result_is_kept,
        attached_user_types_and_reads,
        results_outlive_the_sandbox_and_numbers_go_on,
        start_and_stay_tells_all,
        stop_is_gentle_first,
        what_a_client_runs_is_told_to_end,
        long_command_is_use_to_its_end,
        clients_wait_for_descriptors,
        what_nobody_reads_holds_nobody_up,
        killed_supervisor_leaves_a_dead_sandbox_that_can_start_again,
        stopped_supervisor_is_told_and_can_be_killed,
        owner_that_is_killed_takes_a_named_sandbox_along,
        name_belongs_to_one_of_many,
        lives_are_bounded,
        removed_when_it_ends_if_asked,
        misuse_is_told_with_the_remedy,
        events_tell_what_happened,
        files_go_in_out_and_between,
        files_of_any_size_cost_no_memory,
        files_have_no_more_time_than_they_are_given,
        copy_shows_bytes_and_rate_on_a_terminal_alone,
        archive_is_not_written_to_a_terminal,
        archive_keeps_who_files_belong_to,
        full_sandbox_is_told,
        full_host_is_told,
        names_of_a_sandbox_command_no_terminal,
        devices_pipes_and_sockets_stay_what_they_are,
        what_tells_no_size_is_copied_whole,
        environment_comes_from_files,
        limits_of_a_command_hold,
        pid_limit_holds_or_is_refused,
        usage_is_measured,
        looking_is_no_use,
        console_is_kept_or_told_to_be_none,
        what_is_written_outlives_a_stop_until_it_is_removed,
        what_is_written_outlives_a_killed_sandbox,
        disk_is_bounded_or_refused,
        whoever_reads_no_more_ends_it_silently,
        whoever_only_looks_dies_of_the_signal,
    );
    with_an_engine!(
        suite,
        removal_without_the_engine_is_told_and_can_be_forced,
        prune_removes_volumes_whose_sandbox_is_gone,
    );
    add_of_one_tier(suite);
}

/// The tests that one tier shows for all, or that only it has.
fn add_of_one_tier(suite: &mut Suite) {
    suite.guest(
        "detached",
        &[("full_disk_of_the_host_is_the_guests_error", |s| {
            with(s, "microvm", full_disk_of_the_host_is_the_guests_error)
        })],
    );
    suite.host(
        "detached",
        &[
            (
                "full_state_folder_is_named_and_left_empty",
                full_state_folder_is_named_and_left_empty,
            ),
            ("interrupted_start_leaves_nothing", |s| {
                with(s, "local", interrupted_start_leaves_nothing)
            }),
            ("forced_removal_says_what_stays", |s| {
                with(s, "local", forced_removal_says_what_stays)
            }),
            ("moment_of_a_full_disk_spoils_no_log", |s| {
                with(s, "local", moment_of_a_full_disk_spoils_no_log)
            }),
            ("full_disk_costs_no_result", |s| {
                with(s, "local", full_disk_costs_no_result)
            }),
            ("damaged_log_is_shown_as_far_as_it_goes", |s| {
                with(s, "local", damaged_log_is_shown_as_far_as_it_goes)
            }),
            ("state_folder_need_not_be_text", |s| {
                with(s, "local", state_folder_need_not_be_text)
            }),
            ("removed_folder_ends_its_sandbox", |s| {
                with(s, "local", removed_folder_ends_its_sandbox)
            }),
            ("killed_copy_leaves_nothing_for_long", |s| {
                with(s, "local", killed_copy_leaves_nothing_for_long)
            }),
            ("many_long_commands_are_held_and_told", |s| {
                with(s, "local", many_long_commands_are_held_and_told)
            }),
            ("why_it_broke_is_told", |s| {
                with(s, "local", why_it_broke_is_told)
            }),
            ("owner_that_hears_of_no_start_is_gone", |s| {
                with(s, "local", owner_that_hears_of_no_start_is_gone)
            }),
            ("client_of_another_release_can_kill", |s| {
                with(s, "local", client_of_another_release_can_kill)
            }),
            ("waiting_for_a_command_outlives_the_sandbox", |s| {
                with(s, "local", waiting_for_a_command_outlives_the_sandbox)
            }),
        ],
    );
}
