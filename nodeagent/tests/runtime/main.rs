//! The built-in runtime against real containers. Needs root; each test has a mount namespace, a folder and a cgroup
//! subtree of its own, and looks afterwards whether anything is left. All of them run once more in a virtual machine whose
//! kernel has version 2 of control groups.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod confinement;
mod containers;
mod exec;
mod machine;
mod node;
mod sandboxes;
mod takeover;

use std::path::Path;

/// Which of the two versions of control groups this machine has, the other one would go untested.
#[test]
fn the_same_holds_on_one_hierarchy_of_control_groups() {
    let this = "the_same_holds_on_one_hierarchy_of_control_groups";
    let console = machine::run(&["--skip", this], Path::new(env!("CARGO_BIN_EXE_supervisor")));
    let controllers = console.lines().find(|line| line.starts_with("controllers: "));
    let controllers = controllers.unwrap_or_else(|| panic!("the machine does not start:\n{console}"));
    for needed in ["cpu", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|word| word == needed), "{controllers}");
    }
    assert!(console.contains("the program ended with 0"), "{console}");
}
