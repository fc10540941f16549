//! Random programs of what agents' servers, people and the daemon do, against whole daemons over real
//! HTTP: whatever a server answers, nothing is lost that it still has or that nobody deleted.
//!
//! `ODD_PROGRAMS=10000 cargo test --test odd_servers` runs more; `ODD_SEED=7` begins with that program,
//! and `ODD_SEED=7 ODD_PROGRAMS=1` repeats it alone.

#[path = "../bridge/fake.rs"]
mod fake;
mod program;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use program::Counts;

/// How many programs run if nothing is said.
const PROGRAMS: u64 = 80;
/// How many run at a time: most of one's time is waiting.
const AT_ONCE: u64 = 12;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("it is a number"))
}

#[test]
#[expect(clippy::print_stdout, reason = "what was met belongs to the result")]
fn nothing_is_lost_whatever_servers_answer_and_all_agree_once_they_are_well() {
    let (first, programs) = (number("ODD_SEED", 1), number("ODD_PROGRAMS", PROGRAMS));
    let next = AtomicU64::new(first);
    let counts = std::thread::scope(|scope| {
        let run = || {
            let mut counts = Counts::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + programs {
                    return counts;
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let met = runtime.unwrap().block_on(program::run(seed));
                counts.add(&met.unwrap_or_else(|wrong| panic!("ODD_SEED={seed}: {wrong}")));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE.min(programs)).map(|_| scope.spawn(run)).collect();
        let mut all = Counts::default();
        for worker in workers {
            match worker.join() {
                Ok(counts) => all.add(&counts),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    println!("{programs} programs from {first}: {counts}");
    if programs >= PROGRAMS {
        assert!(counts.met_everything(), "something was never met: {counts}");
    }
}
