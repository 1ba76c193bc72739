//! How tests are shared out among labs that run side by side.

/// Tests that take far longer than others, with the seconds they took in a lab, roughly.
const LONG: &[(&str, u32)] = &[
    ("two_hundred_in_a_row_leave_nothing", 200),
    ("a_gibibyte_passes_unchanged", 90),
    ("an_embedder_does_not_grow", 30),
    ("has_32_cpus", 30),
    ("stock_debian_kernel_boots", 20),
    ("eight_side_by_side_leave_nothing", 20),
];

/// What any other test takes: most boot a guest. Cases of the conformance suite share one.
const SECONDS: u32 = 4;
const CONFORMANCE_SECONDS: u32 = 2;

/// Shares tests out so that each share takes about as long: the longest first, each to the share
/// that has the least. Empty shares are left out.
pub(super) fn split(names: &[String], count: usize) -> Vec<Vec<String>> {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_by_key(|name| std::cmp::Reverse(seconds(name)));
    let mut shares: Vec<(u32, Vec<String>)> = vec![(0, Vec::new()); count.max(1)];
    for name in sorted {
        if let Some((total, share)) = shares.iter_mut().min_by_key(|(total, _)| *total) {
            *total += seconds(name);
            share.push(name.clone());
        }
    }
    shares
        .into_iter()
        .map(|(_, share)| share)
        .filter(|share| !share.is_empty())
        .collect()
}

fn seconds(name: &str) -> u32 {
    let usual = if name.starts_with("microvm::") {
        CONFORMANCE_SECONDS
    } else {
        SECONDS
    };
    LONG.iter()
        .find(|(long, _)| name.ends_with(long))
        .map_or(usual, |(_, seconds)| *seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_in_one_share_and_the_longest_stand_apart() {
        let mut names: Vec<_> = (0..20).map(|index| format!("guest::x::{index}")).collect();
        names.push("guest::streams::a_gibibyte_passes_unchanged".to_owned());
        names.push("guest::lifecycle::two_hundred_in_a_row_leave_nothing".to_owned());
        let shares = split(&names, 2);
        assert_eq!(shares.len(), 2);
        let mut all: Vec<_> = shares.concat();
        all.sort();
        names.sort();
        assert_eq!(all, names);
        let long =
            |share: &Vec<String>| share.iter().filter(|name| seconds(name) > SECONDS).count();
        assert_eq!(shares.iter().map(long).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn empty_shares_are_left_out() {
        assert_eq!(split(&["one".to_owned()], 2).len(), 1);
        assert!(split(&[], 2).is_empty());
    }
}
