//! What is given out, as bytes.

use jiff::Timestamp;

use super::ranges::Ranges;
use super::stage::Stage;
use super::store::Saved;

/// Takes over what an earlier run has given out.
pub(crate) fn saved(bytes: &[u8]) {
    if let Some(saved) = crate::state::decode::<Saved>(bytes) {
        let range = Ranges::DEFAULT.parse().into_iter().collect();
        let mut stage = Stage::new(Ranges::new(range, None).ok());
        stage.adopt(saved.given, Timestamp::UNIX_EPOCH);
        stage.expire(Timestamp::UNIX_EPOCH);
        let _ = stage.grants();
    }
}
