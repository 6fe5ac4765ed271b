//! The memory limit of the control group (v1 or v2) that this process runs in: what a container may use.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit in bytes, what is used of it, and the file that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupLimit {
    pub(crate) limit: usize,
    /// Used, without file pages that the system drops when it needs room.
    pub(crate) used: usize,
    pub(crate) file: PathBuf,
}

/// The group of this process and every group above it that sets a limit.
pub(crate) fn limits() -> Vec<GroupLimit> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    limits_from(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"), Path::new("/"))
}

/// File names of one version of the interface.
struct Version {
    limit: &'static str,
    usage: &'static str,
    /// The field of `memory.stat` that counts droppable file pages of the group and those below.
    droppable: &'static str,
}

const V1: Version =
    Version { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", droppable: "total_inactive_file" };
const V2: Version = Version { limit: "memory.max", usage: "memory.current", droppable: "inactive_file" };

/// As [`limits`], from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`, with files looked up under `root`.
fn limits_from(cgroup: &str, mountinfo: &str, root: &Path) -> Vec<GroupLimit> {
    let mut found = Vec::new();
    for line in cgroup.lines() {
        // hierarchy-id:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let version = if id == "0" && controllers.is_empty() {
            V2
        } else if controllers.split(',').any(|c| c == "memory") {
            V1
        } else {
            continue;
        };
        let kind = if version.limit == V2.limit { "cgroup2" } else { "cgroup" };
        for (mount, mount_root) in mounts(mountinfo, kind) {
            found.extend(climb(&version, path, mount_root, root, mount));
        }
    }
    found
}

/// Mount points of a file system type, with the part of the hierarchy that each shows; v1 only where memory is controlled.
fn mounts<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    mountinfo.lines().filter_map(move |line| {
        // id parent major:minor root mount-point options [tags] - type source super-options
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, mount) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (found, options) = (after.next()?, after.nth(1)?);
        let fits = found == kind && (kind == "cgroup2" || options.split(',').any(|option| option == "memory"));
        fits.then_some((mount, root))
    })
}

/// Reads the limits from the group at `path` up to the top of the mount.
fn climb(version: &Version, path: &str, mount_root: &str, root: &Path, mount: &str) -> Vec<GroupLimit> {
    let top = root.join(mount.trim_start_matches('/'));
    // Inside a container the mount shows only a part of the hierarchy, often the group itself as its root.
    let relative = path.strip_prefix(mount_root.trim_end_matches('/')).unwrap_or("");
    let mut directory = top.join(relative.trim_start_matches('/'));
    let mut found = Vec::new();
    loop {
        found.extend(read_group(version, &directory));
        if directory == top || !directory.pop() {
            return found;
        }
    }
}

fn read_group(version: &Version, directory: &Path) -> Option<GroupLimit> {
    let file = directory.join(version.limit);
    let limit = fs::read_to_string(&file).ok()?.trim().parse::<u64>().ok()?; // "max" is no number: no limit
    if limit >= 1 << 60 {
        return None; // v1 writes its largest number for "no limit"
    }
    let number = |name| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<usize>().ok();
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let droppable = stat
        .lines()
        .find_map(|line| line.strip_prefix(version.droppable)?.strip_prefix(' ')?.trim().parse::<usize>().ok())
        .unwrap_or(0);
    let used = number(version.usage).unwrap_or(0).saturating_sub(droppable);
    Some(GroupLimit { limit: usize::try_from(limit).ok()?, used, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_reads_the_group_and_its_parents() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sys/fs/cgroup/a/memory.max", "1000000\n");
        write(root.path(), "sys/fs/cgroup/a/memory.current", "600000\n");
        write(root.path(), "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n");
        write(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = limits_from("0::/a/b\n", mountinfo, root.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].limit, found[0].used), (1_000_000, 500_000));
        assert!(found[0].file.ends_with("a/memory.max"));
    }

    #[test]
    fn version_1_reads_the_memory_hierarchy_only() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "cg/memory/x/memory.limit_in_bytes", "2000\n");
        write(root.path(), "cg/memory/x/memory.usage_in_bytes", "500\n");
        write(root.path(), "cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(root.path(), "cg/cpu/x/memory.limit_in_bytes", "1\n");
        let mountinfo =
            "31 30 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu\n32 30 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n";
        let found = limits_from("3:cpu:/x\n4:memory:/x\n0::/\n", mountinfo, root.path());
        assert_eq!(found.iter().map(|l| (l.limit, l.used)).collect::<Vec<_>>(), [(2000, 500)]);
    }

    #[test]
    fn inside_a_container_the_mount_is_the_group_itself() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sys/fs/cgroup/memory.max", "4096\n");
        let mountinfo = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let found = limits_from("0::/docker/abc\n", mountinfo, root.path());
        assert_eq!(found.iter().map(|l| l.limit).collect::<Vec<_>>(), [4096]);
    }

    #[test]
    fn nonsense_is_no_limit() {
        assert!(limits_from("x\n:::\n7:memory\n", "garbage - \n - cgroup2\n", Path::new("/nonexistent")).is_empty());
    }
}
