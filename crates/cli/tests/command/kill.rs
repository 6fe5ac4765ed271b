//! Trainings that are killed, or cannot write: the last checkpoint is whole, and a resumed training ends as if nothing had been.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::text;
use crate::training::{Left, Training, files, recipe};

/// Kills, and those of them that come while a checkpoint is being written.
const KILLS: usize = 20;
const WHILE_WRITING: usize = KILLS / 2;
/// Enough that it is never done before the last kill.
const STEPS: u64 = 100;

fn unfinished(out: &Path) -> bool {
    files(out).iter().any(|f| text(f).contains(".checkpoint.safetensors.") && text(f).ends_with(".part"))
}

fn steps(out: &Path) -> usize {
    fs::read(out.join("metrics.jsonl")).map_or(0, |lines| lines.iter().filter(|&&b| b == b'\n').count())
}

#[test]
fn a_training_killed_at_any_moment_resumes_and_ends_with_the_same_bits() {
    let recipe = format!(
        "{}checkpoint_every = 1\nvalidate_every = 10\n[sample]\nevery = 7\nprompt = \"the cat\"\ntokens = 6\n",
        recipe(512, STEPS, "")
    );
    let training = Training::new(&recipe);
    let whole = training.path().join("whole");
    training.run(&whole, &[]);
    let out = training.path().join("killed");
    let mut state = 2026_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut at_random, mut while_writing) = (0, 0);
    while at_random + while_writing < KILLS {
        let before = steps(&out);
        assert!(before < STEPS as usize, "the training ended after {} kills", at_random + while_writing);
        let mut child = training.spawn(&out);
        let begin = Instant::now();
        if while_writing < WHILE_WRITING && (at_random >= KILLS - WHILE_WRITING || random(2) == 0) {
            // Not the first checkpoint of this run: it must get further.
            while steps(&out) <= before || !unfinished(&out) {
                assert!(child.try_wait().expect("its state").is_none(), "it ended before it was killed");
                assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoint is being written");
            }
            std::thread::sleep(Duration::from_micros(random(3000)));
            child.kill().expect("killed");
            child.wait().expect("ended");
            // Whether the signal came in time shows in what was left.
            while_writing += usize::from(unfinished(&out));
        } else {
            std::thread::sleep(Duration::from_millis(random(300)));
            child.kill().expect("killed");
            child.wait().expect("ended");
            at_random += 1;
        }
    }
    assert!(while_writing >= WHILE_WRITING);
    training.run(&out, &["--resume"]);
    let (killed, whole) = (Left::of(&out), Left::of(&whole));
    assert_eq!(whole.lines.len(), STEPS as usize);
    killed.assert_equals(&whole);
    assert!(!unfinished(&out), "nothing unfinished stays");
}

/// A file system of its own, gone when the test ends; none where mounting is not allowed.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(at: &Path, bytes: u64) -> Option<Disk> {
        fs::create_dir_all(at).expect("a folder");
        let disk = Disk(at.to_path_buf());
        if disk.mount(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]) {
            return Some(disk);
        }
        assert!(std::env::var_os("MEMWALL_MOUNT_REQUIRED").is_none(), "mounting is not allowed here");
        eprintln!("skipped: mounting is not allowed here");
        None
    }

    fn mount(&self, args: &[&str]) -> bool {
        let command = std::process::Command::new("mount").args(args).arg(&self.0).output();
        command.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_or_an_unwritable_one_leaves_the_last_checkpoint_to_resume_from() {
    let training = Training::new(&recipe(128, 12, "checkpoint_every = 4\n"));
    let whole = training.path().join("whole");
    training.run(&whole, &[]);
    let checkpoint = fs::metadata(whole.join("checkpoint.safetensors")).expect("a checkpoint").len();
    // Room for a checkpoint, and for half of the next beside it.
    let at = training.path().join("disk");
    let Some(disk) = Disk::new(&at, checkpoint * 3 / 2 + (256 << 10)) else { return };
    let out = at.join("out");
    training.refused(&out, &[], &["checkpoint.safetensors", "No space left"]);
    let kept = fs::read(out.join("checkpoint.safetensors")).expect("the first checkpoint");
    assert_eq!(kept.len() as u64, checkpoint);
    assert!(!unfinished(&out), "what was not finished is gone");
    training.refused(&out, &["--resume"], &["checkpoint.safetensors", "No space left"]);
    assert!(fs::read(out.join("checkpoint.safetensors")).expect("the first checkpoint") == kept);

    assert!(disk.mount(&["-o", "remount,ro,size=64m"]));
    training.refused(&out, &["--resume"], &["metrics.jsonl", "Read-only"]);
    assert!(fs::read(out.join("checkpoint.safetensors")).expect("the first checkpoint") == kept);

    assert!(disk.mount(&["-o", "remount,rw,size=64m"]));
    training.run(&out, &["--resume"]);
    Left::of(&out).assert_equals(&Left::of(&whole));
}
