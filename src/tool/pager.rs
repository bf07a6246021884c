//! Shows a long text on a terminal page by page.

use std::env;
use std::io::{self, IsTerminal, Write, stdout};
use std::process::{Child, ChildStdin, Command, Stdio};

use anstream::AutoStream;

/// Where a text for people goes.
pub(crate) struct Pager {
    out: AutoStream<Box<dyn Write>>,
    /// The pager, if there is one.
    child: Option<Child>,
}

impl Pager {
    /// Starts the pager that the variable PAGER names, or `less`, if standard output is a terminal.
    /// An empty PAGER means none.
    pub(crate) fn start() -> Self {
        match start() {
            Some((child, input)) => Self::to(Box::new(input), Some(child)),
            None => Self::none(),
        }
    }

    /// Writes to standard output.
    pub(crate) fn none() -> Self {
        Self::to(Box::new(stdout().lock()), None)
    }

    fn to(out: Box<dyn Write>, child: Option<Child>) -> Self {
        // Colours are for whoever reads standard output in the end.
        Self { out: AutoStream::new(out, AutoStream::choice(&stdout())), child }
    }

    /// Waits until the text has been read.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        // A pager ends when its input does.
        drop(self.out);
        if let Some(mut child) = self.child {
            child.wait()?;
        }
        flushed
    }
}

impl Write for Pager {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn start() -> Option<(Child, ChildStdin)> {
    if !stdout().is_terminal() {
        return None;
    }
    let mut command = match env::var_os("PAGER") {
        Some(pager) if pager.is_empty() => return None,
        Some(pager) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(pager);
            shell
        }
        None => Command::new("less"),
    };
    if env::var_os("LESS").is_none() {
        // End if it fits on the screen, show colours, and leave the text there.
        command.env("LESS", "FRX");
    }
    // Without a pager, the text is printed at once.
    let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
    let input = child.stdin.take()?;
    Some((child, input))
}
