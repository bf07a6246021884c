//! Transactions without a socket.

use rulec_compiler::Delta;

use super::batch::Batch;
use super::transactions;

/// Makes the messages of deltas, as a commit does before it sends them.
#[derive(Default)]
pub struct Encoder {
    batch: Batch,
    mark: u32,
}

impl Encoder {
    /// Creates an encoder. The mark is the one that the rules use.
    pub fn new(mark: u32) -> Self {
        Self { mark, ..Self::default() }
    }

    /// Returns the number of transactions and of their bytes.
    pub fn encode(&mut self, delta: &Delta) -> (usize, usize) {
        let (mut transactions, mut bytes) = (0, 0);
        for step in delta.steps() {
            for part in transactions::parts(step, delta.atomic) {
                self.batch.begin(self.batch.end_seq(), None);
                self.batch.put(&part, self.mark, 0);
                transactions += 1;
                bytes += self.batch.finish().len();
            }
        }
        (transactions, bytes)
    }
}
