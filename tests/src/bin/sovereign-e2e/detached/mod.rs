//! Sandboxes that outlive their creator: the same tests on every tier.

mod bulk;
mod console;
mod desk;
mod files;
mod life;
mod limits;
mod records;
mod usage;

use crate::suite::{Suite, Test};
use bulk::files_of_any_size_cost_no_memory;
use console::console_is_kept_or_told_to_be_none;
pub(crate) use desk::{Desk, with};
use files::files_go_in_out_and_between;
use life::{
    attached_user_types_and_reads, command_goes_on_alone_and_its_result_is_kept,
    end_is_kept_and_told, killed_supervisor_leaves_a_dead_sandbox_that_can_start_again,
    lives_are_bounded, owner_that_is_killed_takes_a_named_sandbox_along,
    removed_when_it_ends_if_asked, sandbox_outlives_its_creator, stop_is_gentle_first,
};
use limits::{limits_of_a_command_hold, pid_limit_holds_or_is_refused};
use records::{
    events_tell_what_happened, full_state_folder_is_named_and_left_empty,
    misuse_is_told_with_the_remedy, name_belongs_to_one_of_many,
};
use usage::{looking_is_no_use, usage_is_measured};

/// The tests, each on every tier.
macro_rules! on_every_tier {
    ($suite:expr, $($name:ident),+ $(,)?) => {
        let local: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "local", $name))),+];
        let guest: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "microvm", $name))),+];
        let docker: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "docker", $name))),+];
        let podman: &[(&str, Test)] = &[$((stringify!($name), |s| with(s, "podman", $name))),+];
        $suite.host("detached", local);
        $suite.engine("docker", "detached", docker);
        $suite.engine("podman", "detached", podman);
        $suite.guest("detached", guest);
    };
}

pub(crate) fn add(suite: &mut Suite) {
    on_every_tier!(
        suite,
        sandbox_outlives_its_creator,
        end_is_kept_and_told,
        command_goes_on_alone_and_its_result_is_kept,
        attached_user_types_and_reads,
        stop_is_gentle_first,
        killed_supervisor_leaves_a_dead_sandbox_that_can_start_again,
        owner_that_is_killed_takes_a_named_sandbox_along,
        name_belongs_to_one_of_many,
        lives_are_bounded,
        removed_when_it_ends_if_asked,
        misuse_is_told_with_the_remedy,
        events_tell_what_happened,
        files_go_in_out_and_between,
        files_of_any_size_cost_no_memory,
        limits_of_a_command_hold,
        pid_limit_holds_or_is_refused,
        usage_is_measured,
        looking_is_no_use,
        console_is_kept_or_told_to_be_none,
    );
    suite.host(
        "detached",
        &[(
            "full_state_folder_is_named_and_left_empty",
            full_state_folder_is_named_and_left_empty,
        )],
    );
}
