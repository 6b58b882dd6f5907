//! CPU time, as `/proc` counts it.

/// Kernel ticks a second.
const TICKS: f64 = 100.0;

/// What a process (its id, or `self`) has used, user's and system's, seconds.
pub fn seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // behind the program's name, which may hold anything
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}
