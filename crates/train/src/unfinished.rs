//! Files and folders that get their name when they are whole.
//!
//! Until then they lie beside their place as `.NAME.XXXXXXXX.partial`, with eight random hexadecimal digits, so that nothing of
//! somebody else has that name. Whoever writes holds a lock on it, which the system gives back when a process ends however it
//! does: what killed processes have left is removed by the next that writes to the same place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};

/// What may stand in the place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing, or an empty folder.
    Refuse,
    /// An earlier result, which stays until the new one is whole.
    Replace,
}

/// A file or folder that is being written. Dropping it before it has its name removes it.
pub(crate) struct Unfinished {
    /// Where it lies.
    partial: PathBuf,
    /// Its place.
    to: PathBuf,
    existing: Existing,
    /// The folder of the place is one that cannot be renamed: what is in it is.
    is_mount: bool,
    held: Option<File>,
}

impl Unfinished {
    /// Begins a file that will be `to`. If `to` is a link, the file that it points to is written.
    ///
    /// # Errors
    /// A pipe, a device or a folder in its place; a link to nothing; a folder in which nothing can be written.
    pub(crate) fn file(to: &Path, existing: Existing) -> io::Result<Self> {
        let to = followed(to)?;
        if to.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("it is no file: a file can only be written over a file"));
        }
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let (partial, held) = begin(&to, &create)?;
        Ok(Unfinished { partial, to, existing, is_mount: false, held: Some(held) })
    }

    /// Begins a folder that will be `to`, and makes the folders above it. If `to` is a link, the folder that it points to is written.
    ///
    /// # Errors
    /// A link to nothing; a folder in which nothing can be written.
    pub(crate) fn folder(to: &Path, existing: Existing) -> io::Result<Self> {
        let to = followed(to)?;
        fs::create_dir_all(parent(&to))?;
        let is_mount = is_mount_point(&to);
        // Inside of what cannot be renamed, and beside everything else.
        let beside = if is_mount { to.join(to.file_name().unwrap_or_default()) } else { to.clone() };
        let create = |path: &Path| fs::create_dir(path).and_then(|()| File::open(path));
        let (partial, held) = begin(&beside, &create)?;
        Ok(Unfinished { partial, to, existing, is_mount, held: Some(held) })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Something that was put into its place meanwhile, unless it may be replaced; what the system says.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let folder = if self.is_mount { self.to.clone() } else { parent(&self.to) };
        match (self.partial.is_dir(), self.is_mount) {
            (false, _) => self.finish_file(),
            (true, false) => self.finish_folder(),
            (true, true) => self.move_up(),
        }?;
        self.held = None;
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }

    fn finish_file(&self) -> io::Result<()> {
        match self.existing {
            Existing::Replace => fs::rename(&self.partial, &self.to),
            // A second name is refused where there is one, in one step; file systems without second names rename.
            Existing::Refuse => match fs::hard_link(&self.partial, &self.to) {
                Ok(()) => fs::remove_file(&self.partial),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
                Err(_) if self.to.exists() => Err(taken()),
                Err(_) => fs::rename(&self.partial, &self.to),
            },
        }
    }

    /// A folder takes the name of an empty one in one step, and of no other.
    fn finish_folder(&self) -> io::Result<()> {
        let renamed = fs::rename(&self.partial, &self.to);
        match (renamed, self.existing) {
            (Err(error), Existing::Refuse) if is_not_empty(&error) => Err(taken()),
            (Err(error), Existing::Replace) if is_not_empty(&error) => {
                let old = self.partial.with_extension("old");
                fs::rename(&self.to, &old)?;
                if let Err(error) = fs::rename(&self.partial, &self.to) {
                    fs::rename(&old, &self.to)?;
                    return Err(error);
                }
                // The new folder is in its place: that the old one cannot be removed is no error.
                let _ = fs::remove_dir_all(&old);
                Ok(())
            }
            (renamed, _) => renamed,
        }
    }

    /// Moves the entries into the folder above, the configuration last: without it a folder is no model and no adapter.
    fn move_up(&self) -> io::Result<()> {
        let entries = |dir: &Path| -> io::Result<Vec<OsString>> {
            fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let own = self.partial.file_name().unwrap_or_default();
        let before: Vec<OsString> =
            entries(&self.to)?.into_iter().filter(|name| name != own && name != "lost+found").collect();
        if !before.is_empty() && self.existing == Existing::Refuse {
            return Err(taken());
        }
        for name in before {
            let path = self.to.join(name);
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }?;
        }
        let mut names = entries(&self.partial)?;
        names.sort_by_key(|name| (name.to_string_lossy().ends_with("config.json"), name.clone()));
        for name in names {
            fs::rename(self.partial.join(&name), self.to.join(&name))?;
        }
        fs::remove_dir(&self.partial)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.held.is_some() {
            remove(&self.partial);
        }
    }
}

/// Something stands in the place by now.
fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "something else was written there meanwhile")
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Removes a file or a folder; what stays is removed by the next that writes there.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// The folder that holds a path.
fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// What a path means: of a link, what it points to.
///
/// # Errors
/// A link to nothing.
pub fn followed(path: &Path) -> io::Result<PathBuf> {
    if !path.is_symlink() {
        return Ok(path.to_owned());
    }
    path.canonicalize().map_err(|error| {
        let target = fs::read_link(path).unwrap_or_default();
        io::Error::new(error.kind(), format!("it is a link to {}, which is not there", target.display()))
    })
}

/// Makes and locks a file or folder beside `to`.
fn begin(to: &Path, create: &dyn Fn(&Path) -> io::Result<File>) -> io::Result<(PathBuf, File)> {
    remove_abandoned(to);
    loop {
        let digits = RandomState::new().hash_one(std::process::id()) as u32;
        let partial = parent(to).join(format!("{}{digits:08x}{END}", begin_of_name(to)));
        let held = match create(&partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        // Where there are no locks, nothing is removed either.
        let _ = held.lock();
        // Another process that looked for what is left may have been quicker than the lock.
        if partial.exists() {
            return Ok((partial, held));
        }
    }
}

const END: &str = ".partial";

fn begin_of_name(to: &Path) -> String {
    format!(".{}.", to.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what killed processes have left of `to`.
fn remove_abandoned(to: &Path) {
    let begin = begin_of_name(to);
    for entry in fs::read_dir(parent(to)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(END));
        let is_one =
            digits.is_some_and(|digits| digits.len() == 8 && u32::from_str_radix(digits, 16).is_ok());
        if is_one && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            remove(&entry.path());
        }
    }
}

/// Whether another file system, or another part of one, is mounted at a folder. It can be filled and not renamed.
fn is_mount_point(dir: &Path) -> bool {
    let (Ok(dir), Ok(mounts)) = (dir.canonicalize(), fs::read_to_string("/proc/self/mountinfo")) else {
        return false;
    };
    // The fifth word of a line; blanks in it are `\040`.
    let is_it = |line: &str| {
        line.split(' ').nth(4).is_some_and(|place| Path::new(&place.replace("\\040", " ")) == dir)
    };
    mounts.lines().any(is_it)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a folder").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_that_is_there_is_touched_and_two_at_once_do_not_meet() {
        let place = tempfile::tempdir().expect("a folder");
        let to = place.path().join("model.gguf");
        for name in ["model.tmp", "model.gguf.partial", ".model.gguf.partial", ".model.gguf.12.partial"] {
            fs::write(place.path().join(name), "mine").expect("written");
        }
        let mine = names(place.path());
        let (first, second) = (
            Unfinished::file(&to, Existing::Refuse).expect("begun"),
            Unfinished::file(&to, Existing::Refuse).expect("begun"),
        );
        assert_ne!(first.path(), second.path());
        fs::write(first.path(), "first").expect("written");
        fs::write(second.path(), "second").expect("written");
        first.finish().expect("named");
        let error = second.finish().expect_err("there is one by now");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&to).expect("there"), "first");
        let again = Unfinished::file(&to, Existing::Replace).expect("begun");
        fs::write(again.path(), "again").expect("written");
        again.finish().expect("replaced");
        assert_eq!(fs::read_to_string(&to).expect("there"), "again");
        let mut expected = [&mine[..], &["model.gguf".to_owned()]].concat();
        expected.sort();
        assert_eq!(names(place.path()), expected);
    }

    #[test]
    fn a_folder_takes_an_empty_place_and_replaces_only_where_it_may() {
        let place = tempfile::tempdir().expect("a folder");
        let to = place.path().join("model");
        let write = |existing, text: &str| {
            let folder = Unfinished::folder(&to, existing).expect("begun");
            fs::write(folder.path().join("config.json"), text).expect("written");
            folder.finish()
        };
        fs::create_dir(&to).expect("made");
        write(Existing::Refuse, "1").expect("it was empty");
        assert_eq!(write(Existing::Refuse, "2").expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(to.join("config.json")).expect("there"), "1");
        write(Existing::Replace, "3").expect("replaced");
        assert_eq!(fs::read_to_string(to.join("config.json")).expect("there"), "3");
        drop(Unfinished::folder(&to, Existing::Replace).expect("begun"));
        assert_eq!(names(place.path()), ["model"]);
        let below = place.path().join("some/where");
        Unfinished::folder(&below, Existing::Refuse).expect("begun").finish().expect("named");
        assert!(below.is_dir());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
        let place = tempfile::tempdir().expect("a folder");
        let to = place.path().join("model");
        let left = place.path().join(".model.0123abcd.partial");
        fs::create_dir(&left).expect("made");
        fs::write(left.join("model.safetensors"), "half").expect("written");
        let other = Unfinished::folder(&to, Existing::Refuse).expect("begun");
        assert!(!left.exists());
        let own = Unfinished::folder(&to, Existing::Refuse).expect("begun");
        assert!(other.path().exists() && own.path().exists());
    }

    #[test]
    fn links_are_followed_and_pipes_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("real")).expect("made");
        std::os::unix::fs::symlink(at("real"), at("link")).expect("linked");
        let folder = Unfinished::folder(&at("link"), Existing::Refuse).expect("begun");
        fs::write(folder.path().join("file"), "").expect("written");
        folder.finish().expect("named");
        assert!(at("link").is_symlink() && at("real/file").is_file());
        std::os::unix::fs::symlink(at("gone"), at("dangling")).expect("linked");
        let error = Unfinished::file(&at("dangling"), Existing::Refuse).err().expect("refused").to_string();
        assert!(error.contains("gone, which is not there"), "{error}");
        let pipe = std::ffi::CString::new(at("pipe").to_str().expect("text")).expect("no zero");
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        assert!(Unfinished::file(&at("pipe"), Existing::Replace).is_err());
    }
}
