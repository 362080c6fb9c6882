//! The thread pool: every index once, barriers that hold, panics that are reported, nothing that hangs.

use std::sync::atomic::{AtomicUsize, Ordering};

use agentlm_cpu::pool::{Pool, PoolError};

const THREADS: [usize; 4] = [1, 2, 3, 8];

#[test]
fn every_worker_enters_a_region_once() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        let entered: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..200 {
            pool.run(&|worker| {
                assert_eq!(worker.count(), threads);
                entered[worker.index()].fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert!(
            entered.iter().all(|n| n.load(Ordering::Relaxed) == 200),
            "{threads} threads: {entered:?}"
        );
    }
}

#[test]
fn a_parallel_loop_runs_every_index_once_and_ends_with_a_barrier() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        pool.run(&|worker| worker.barrier()).unwrap();
        let cells: Vec<_> = (0..37).map(|_| AtomicUsize::new(0)).collect();
        let rounds = 300;
        pool.run(&|worker| {
            for round in 0..rounds {
                worker.parallel_for(cells.len(), |i| {
                    cells[i].fetch_add(1, Ordering::Relaxed);
                });
                // Behind the loop's barrier every cell was counted; the second one keeps the next round away.
                assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == round + 1));
                worker.barrier();
            }
        })
        .unwrap();
    }
}

#[test]
fn an_empty_loop_and_a_loop_of_fewer_indexes_than_workers_finish() {
    let pool = Pool::new(8).unwrap();
    let calls = AtomicUsize::new(0);
    pool.run(&|worker| {
        worker.parallel_for(0, |_| panic!("an empty loop has no body"));
        worker.parallel_for(3, |_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
    })
    .unwrap();
    assert_eq!(calls.into_inner(), 3);
}

#[test]
fn a_loop_inside_a_loop_runs_whole_on_its_worker() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        let sum = AtomicUsize::new(0);
        pool.run(&|worker| {
            worker.parallel_for(10, |i| {
                worker.parallel_for(10, |j| {
                    sum.fetch_add(10 * i + j, Ordering::Relaxed);
                });
            });
        })
        .unwrap();
        assert_eq!(sum.into_inner(), (0..100).sum::<usize>());
    }
}

#[test]
fn a_region_inside_a_region_is_an_error_on_every_worker() {
    let pool = Pool::new(3).unwrap();
    let refused = AtomicUsize::new(0);
    pool.run(&|_| {
        if pool.run(&|_| {}) == Err(PoolError::Nested) {
            refused.fetch_add(1, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert_eq!(refused.into_inner(), 3);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        for guilty in 0..threads {
            let outcome = pool.run(&|worker| {
                worker.barrier();
                if worker.index() == guilty {
                    panic!("worker {guilty} fell");
                }
                worker.barrier();
                panic!("nobody passes a broken barrier");
            });
            assert_eq!(
                outcome,
                Err(PoolError::Panicked {
                    worker: guilty,
                    message: format!("worker {guilty} fell")
                })
            );
            let after = AtomicUsize::new(0);
            pool.run(&|worker| {
                worker.parallel_for(5, |_| {
                    after.fetch_add(1, Ordering::Relaxed);
                });
            })
            .unwrap();
            assert_eq!(after.into_inner(), 5);
        }
    }
}

#[test]
fn a_panic_in_a_loop_body_reaches_the_caller() {
    let pool = Pool::new(2).unwrap();
    let outcome = pool.run(&|worker| worker.parallel_for(100, |i| assert!(i != 42, "index {i}")));
    assert!(matches!(outcome, Err(PoolError::Panicked { message, .. }) if message == "index 42"));
}

#[test]
fn a_barrier_in_a_loop_body_is_an_error_and_not_a_hang() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        let outcome = pool.run(&|worker| worker.parallel_for(1, |_| worker.barrier()));
        assert!(matches!(outcome, Err(PoolError::Panicked { .. })), "{outcome:?}");
    }
}

#[test]
fn callers_from_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    let sum = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.run(&|worker| {
                        worker.parallel_for(3, |_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 50 * 3);
}

#[test]
fn an_impossible_thread_count_is_refused_with_the_range() {
    for given in [0, 100_000] {
        let message = Pool::new(given).err().unwrap().to_string();
        assert!(
            message.contains(&given.to_string()) && message.contains("1 to"),
            "{message}"
        );
    }
}

#[cfg(unix)]
#[test]
fn use_after_a_fork_is_an_error_and_not_a_hang() {
    let pool = Pool::new(2).unwrap();
    // SAFETY: the child only checks the process id, drops nothing that allocates or locks, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        let refused = matches!(pool.run(&|_| {}), Err(PoolError::Forked { .. }));
        drop(pool);
        // SAFETY: always sound; ends the child without the parent's exit handlers.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is a valid out-pointer and `child` is our child.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    pool.run(&|worker| worker.barrier()).unwrap();
}
