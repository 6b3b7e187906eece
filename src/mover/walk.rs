//! Walks the files that a source names, sorted as snapshots want them, and leaves out what is excluded.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::job::{Failure, FailureKind};

/// What a walk found.
#[derive(Debug)]
pub struct Found {
    /// Absolute path.
    pub path: PathBuf,
    /// Its metadata, links not followed.
    pub metadata: Metadata,
    /// A directory above what the source names; only it was looked at.
    pub above: bool,
}

/// Something that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Absolute path.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// The paths of a source, checked.
#[derive(Debug)]
pub struct Roots {
    roots: Vec<PathBuf>,
    exclude: GlobSet,
    one_file_system: bool,
}

impl Roots {
    /// Takes the paths of a source: sorted, none inside another.
    ///
    /// # Errors
    /// A path is not absolute or not there, or a glob cannot be read.
    pub fn new(paths: &[PathBuf], exclude: &[String], one_file_system: bool) -> Result<Self, Failure> {
        let mut roots: Vec<PathBuf> = Vec::new();
        let sorted: BTreeSet<PathBuf> = paths.iter().map(|path| path.components().collect()).collect();
        for path in sorted {
            let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !path.is_absolute() || !plain {
                return Err(Failure::new(
                    FailureKind::SourceFailed,
                    format!("{} is not an absolute path without `..`", path.display()),
                )
                .hint("write the path as it is, from the root"));
            }
            if let Err(error) = fs::symlink_metadata(&path) {
                let (kind, what) = if error.kind() == ErrorKind::PermissionDenied {
                    (FailureKind::PermissionDenied, error.to_string())
                } else {
                    (FailureKind::SourceFailed, format!("it is missing ({error})"))
                };
                return Err(Failure::new(kind, format!("cannot read the source {}: {what}", path.display())));
            }
            if !roots.iter().any(|root| path.starts_with(root)) {
                roots.push(path);
            }
        }
        if roots.is_empty() {
            return Err(Failure::new(FailureKind::SourceFailed, "the source names no path"));
        }
        Ok(Self { roots, exclude: globs(exclude)?, one_file_system })
    }

    /// The paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Starts a walk: the directories above each root, then the root and all below it, each directory before what is
    /// in it, names sorted by their bytes.
    pub fn walk(&self) -> Walk {
        Walk {
            roots: self.roots.clone().into_iter(),
            exclude: self.exclude.clone(),
            one_file_system: self.one_file_system,
            root: PathBuf::new(),
            device: 0,
            above: BTreeSet::new(),
            pending: Vec::new(),
        }
    }
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    roots: std::vec::IntoIter<PathBuf>,
    exclude: GlobSet,
    one_file_system: bool,
    root: PathBuf,
    device: u64,
    above: BTreeSet<PathBuf>,
    /// What comes next, last first.
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    /// A directory above a root; only it, and its link followed.
    Above(PathBuf),
    /// A root.
    Root(PathBuf),
    /// Anything below a root.
    Below(PathBuf),
}

impl Iterator for Walk {
    type Item = Result<Found, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(pending) = self.pending.pop() else {
                self.begin_root()?;
                continue;
            };
            match pending {
                Pending::Above(path) => {
                    let found = fs::metadata(&path);
                    return Some(match found {
                        Ok(metadata) => Ok(Found { path, metadata, above: true }),
                        Err(error) => Err(Unreadable { path, error }),
                    });
                }
                Pending::Root(path) => {
                    let found = self.look(path);
                    if let Ok(found) = &found {
                        self.device = found.metadata.dev();
                    }
                    // `/` itself has no name that a tree could hold.
                    if found.as_ref().is_ok_and(|found| found.path.parent().is_none()) {
                        continue;
                    }
                    return Some(found);
                }
                Pending::Below(path) => {
                    let relative = path.strip_prefix(&self.root).unwrap_or(&path);
                    if self.exclude.is_match(relative) {
                        continue;
                    }
                    return Some(self.look(path));
                }
            }
        }
    }
}

impl Walk {
    fn begin_root(&mut self) -> Option<()> {
        let root = self.roots.next()?;
        self.pending.push(Pending::Root(root.clone()));
        for above in root.ancestors().skip(1) {
            // The last ancestor is `/`, which has no name.
            if above.parent().is_some() && self.above.insert(above.to_owned()) {
                self.pending.push(Pending::Above(above.to_owned()));
            }
        }
        self.root = root;
        Some(())
    }

    fn look(&mut self, path: PathBuf) -> Result<Found, Unreadable> {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return Err(Unreadable { path, error }),
        };
        let crosses = self.one_file_system && self.root != path && metadata.dev() != self.device;
        if metadata.is_dir()
            && !crosses
            && let Err(error) = self.descend(&path)
        {
            return Err(Unreadable { path, error });
        }
        Ok(Found { path, metadata, above: false })
    }

    fn descend(&mut self, directory: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name());
        }
        names.sort_unstable();
        self.pending.extend(names.into_iter().rev().map(|name| Pending::Below(directory.join(name))));
        Ok(())
    }
}

/// `cache/**` counts from the root of the source; a glob without a slash, such as `*.tmp`, holds at any depth.
fn globs(patterns: &[String]) -> Result<GlobSet, Failure> {
    let wrong = |pattern: &str, error: globset::Error| {
        Failure::new(FailureKind::SourceFailed, format!("cannot read the glob `{pattern}`: {}", error.kind()))
            .hint("correct it in `exclude`")
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let plain = pattern.trim_start_matches("./").trim_end_matches('/');
        let anchored = match plain.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if plain.contains('/') => plain.to_owned(),
            None => format!("**/{plain}"),
        };
        let glob = GlobBuilder::new(&anchored).literal_separator(true).build();
        set.add(glob.map_err(|error| wrong(pattern, error))?);
    }
    set.build().map_err(|error| wrong(&patterns.join("`, `"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_anchored_where_they_have_a_slash() {
        for (pattern, path, excluded) in [
            ("cache/**", "cache/a/b", true),
            ("cache/**", "cache", false),
            ("cache/**", "sub/cache/a", false),
            ("**/cache/**", "sub/cache/a", true),
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "deep/er/a.tmp", true),
            ("/*.tmp", "deep/a.tmp", false),
            ("node_modules/", "deep/node_modules", true),
            ("sub/*.log", "sub/a.log", true),
            ("sub/*.log", "sub/deep/a.log", false),
        ] {
            let set = globs(&[pattern.to_owned()]).unwrap();
            assert_eq!(set.is_match(path), excluded, "{pattern} {path}");
        }
        assert!(globs(&["a[".to_owned()]).is_err());
    }

    #[test]
    fn a_walk_is_sorted_and_leaves_out_what_is_excluded() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        for path in ["b/x", "b/cache/y", "a-b/z", "a/q", "c.tmp"] {
            fs::create_dir_all(base.join(path).parent().unwrap()).unwrap();
            fs::write(base.join(path), path).unwrap();
        }
        let roots = Roots::new(
            &[base.join("b"), base.to_owned(), base.join("a")],
            &["cache/**".to_owned(), "b/cache/**".to_owned(), "*.tmp".to_owned()],
            false,
        )
        .unwrap();
        assert_eq!(roots.paths(), [base.to_owned()]);
        let found: Vec<_> = roots
            .walk()
            .map(|found| found.unwrap().path)
            .filter_map(|path| path.strip_prefix(base).ok().map(|path| path.display().to_string()))
            .collect();
        assert_eq!(found, ["", "a", "a/q", "a-b", "a-b/z", "b", "b/cache", "b/x"]);
    }

    #[test]
    fn a_missing_root_is_a_failure() {
        let failure = Roots::new(&["/nonexistent/x".into()], &[], false).unwrap_err();
        assert_eq!(failure.kind, FailureKind::SourceFailed);
        assert!(Roots::new(&["relative".into()], &[], false).is_err());
        assert!(Roots::new(&[], &[], false).is_err());
    }
}
