//! Which of cuBLASLt's algorithms computes a product, measured once and kept: another algorithm may add in another order, so
//! that a measurement in each run would change the last bits from run to run.
//!
//! A choice holds for a class of products, since batches have as many tokens as they have: lengths are rounded up to four steps
//! an octave. A file is one choice: what it was made on, the class, and the algorithm, which NVIDIA says can be stored for the same
//! version of the library.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use super::ffi::Algorithm;
use super::user_cache::{self, Existing};
use crate::gpu::{Gemm, Matrix};

/// The choices that were made on a device, with its driver and its library.
pub(super) struct Choices {
    folder: PathBuf,
    machine: String,
}

impl Choices {
    /// Those in `folder`, if files can be made there; `machine` names device, driver and library.
    pub(super) fn new(folder: PathBuf, machine: String) -> Option<Self> {
        fs::create_dir_all(&folder).ok()?;
        tempfile::NamedTempFile::new_in(&folder).ok()?;
        Some(Choices { folder, machine })
    }

    /// The choice for a class. A file that is damaged is none.
    pub(super) fn kept(&self, class: &Class) -> Option<Algorithm> {
        let text = fs::read_to_string(self.path(class)).ok()?;
        let words = text.strip_prefix(&self.title(class))?;
        let words: Vec<u64> =
            words.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
        Some(Algorithm(words.try_into().ok()?))
    }

    /// Keeps a choice and answers what is kept: of two processes that choose at the same time, the choice of the first.
    /// `None` where nothing can be kept.
    pub(super) fn keep(&self, class: &Class, Algorithm(words): Algorithm) -> Option<Algorithm> {
        let words = words.map(|word| format!("{word:016x}")).join(" ");
        let bytes = format!("{}{words}\n", self.title(class)).into_bytes();
        let path = self.path(class);
        user_cache::write(&path, &bytes, Existing::Leave).ok()?;
        self.kept(class).or_else(|| {
            // What stands there is damaged.
            user_cache::write(&path, &bytes, Existing::Replace).ok()?;
            self.kept(class)
        })
    }

    fn title(&self, class: &Class) -> String {
        format!("{}\n{class}\n", self.machine)
    }

    fn path(&self, class: &Class) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.title(class).hash(&mut hasher);
        self.folder.join(format!("{:016x}.txt", hasher.finish()))
    }
}

/// Products that one algorithm is chosen for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class(String);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Class {
    /// That of a product whose matrices `left`, `right` and `out` lie at multiples of `alignments` bytes.
    pub(super) fn of(gemm: &Gemm, alignments: [u32; 3]) -> Self {
        let Gemm { m, n, k, left, right, out, .. } = *gemm;
        let matrix = |matrix: Matrix| {
            let how = if matrix.transposed { " transposed" } else { "" };
            format!("{}{how} by {}", matrix.float.name(), step(matrix.stride))
        };
        let [m, n, k] = [m, n, k].map(step);
        let (left, right, out) = (matrix(left), matrix(right), matrix(out));
        Class(format!("{m} x {n} x {k}: {left}, {right}, {out}, at multiples of {alignments:?}"))
    }
}

/// The next of four steps an octave: 8, 10, 12, 14, 16, 20 and so on.
fn step(length: u64) -> u64 {
    let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
    length.next_multiple_of(1 << bits.saturating_sub(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Factor, Float, Region};

    fn class(m: u64) -> Class {
        let region = Region { offset: 0, bytes: 0 };
        let matrix = Matrix { region, float: Float::Bf16, stride: 4096, transposed: false };
        Class::of(
            &Gemm {
                m,
                n: 4096,
                k: 64,
                left: matrix,
                right: matrix,
                out: matrix,
                scale: Factor::of(1.0),
                base: Some(region),
            },
            [256; 3],
        )
    }

    #[test]
    fn lengths_have_four_steps_an_octave() {
        let steps: Vec<u64> = [1, 2, 7, 8, 9, 11, 16, 17, 4096, 4097, 11_008].map(step).to_vec();
        assert_eq!(steps, [1, 2, 7, 8, 10, 12, 16, 20, 4096, 5120, 12_288]);
        assert_eq!(class(1000), class(1024));
        assert_ne!(class(1024), class(1025));
    }

    #[test]
    fn the_first_choice_stays_and_damage_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let choices =
            |machine: &str| Choices::new(folder.path().to_owned(), machine.to_owned()).expect("a folder");
        let (here, first, second) = (choices("a card, cuBLASLt 13.1"), Algorithm([1; 8]), Algorithm([2; 8]));
        assert_eq!(here.kept(&class(8)), None);
        assert_eq!(here.keep(&class(8), first), Some(first));
        assert_eq!(here.keep(&class(8), second), Some(first));
        assert_eq!(choices("a card, cuBLASLt 13.2").kept(&class(8)), None, "another library");
        fs::write(here.path(&class(8)), "damaged").expect("written");
        assert_eq!(here.kept(&class(8)), None);
        assert_eq!(here.keep(&class(8), second), Some(second));
        let below_a_file = here.path(&class(8)).join("folder");
        assert!(Choices::new(below_a_file, String::new()).is_none(), "nothing can be kept there");
    }
}
