//! Roots that have a file in common: its objects would be defined twice, and none of them would be
//! wrong.

use std::path::{Path, PathBuf, absolute};

use super::file::is_manifest;

/// Why paths cannot be roots together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overlap {
    /// Two are the same.
    #[error("{} is given twice{}", path.display(), also(path, other))]
    Twice {
        /// The first one, as given.
        path: PathBuf,
        /// The second one, as given.
        other: PathBuf,
    },
    /// One is a file that is read with another.
    #[error(
        "{} is in {}, so that it would be read twice: leave out one of both", file.display(),
        directory.display()
    )]
    Within {
        /// The file, as given.
        file: PathBuf,
        /// Its directory, as given.
        directory: PathBuf,
    },
}

fn also(path: &Path, other: &Path) -> String {
    let is_same = path.as_os_str() == other.as_os_str();
    if is_same { String::new() } else { format!(", as {} too", other.display()) }
}

impl Overlap {
    /// Looks for roots that have a file in common, by their paths: they need not exist.
    pub fn find(roots: &[PathBuf]) -> Option<Self> {
        let full = |path: &PathBuf| absolute(path).unwrap_or_else(|_| path.clone());
        let full: Vec<PathBuf> = roots.iter().map(full).collect();
        let full = || roots.iter().zip(&full);
        full().enumerate().find_map(|(index, (root, path))| {
            if let Some((first, _)) = full().take(index).find(|(_, other)| *other == path) {
                return Some(Self::Twice { path: first.clone(), other: root.clone() });
            }
            // Directories in a directory are not read.
            let directory = path.file_name().filter(|name| is_manifest(name)).and(path.parent())?;
            let (directory, _) = full().find(|(_, other)| *other == directory)?;
            Some(Self::Within { file: root.clone(), directory: directory.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_with_a_common_file_are_found() {
        let found = |roots: &[&str]| {
            let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
            Overlap::find(&roots).map(|overlap| overlap.to_string())
        };
        let here = std::env::current_dir().unwrap();
        let here = here.join("a");
        let here = here.to_str().unwrap();
        assert_eq!(found(&["a", "b", "a"]).unwrap(), "a is given twice");
        assert_eq!(found(&["a", "./a/"]).unwrap(), "a is given twice, as ./a/ too");
        assert_eq!(found(&[here, "a"]).unwrap(), format!("{here} is given twice, as a too"));
        let within = "a/x.yaml is in ./a, so that it would be read twice: leave out one of both";
        assert_eq!(found(&["./a", "a/x.yaml"]).unwrap(), within);
        assert_eq!(found(&["a/x.yaml", "./a"]).unwrap(), within);
        for roots in [&["a", "b"][..], &["a", "a/b"], &["a", "a/b/x.yaml"], &["a", "a/x.txt"], &[]]
        {
            assert_eq!(found(roots), None, "{roots:?}");
        }
    }
}
