//! The API server reviews the tokens of nodes.

use rulec_relay_server::{Review, Reviewer, Reviewing};
use rulec_sources::{TokenReview, TokenReviews};

#[derive(Debug)]
pub(super) struct ApiReviewer(pub(super) TokenReviews);

impl Reviewer for ApiReviewer {
    fn review(&self, token: String, audience: String) -> Reviewing {
        let reviews = self.0.clone();
        Box::pin(async move {
            let review = reviews.review(token, audience).await?;
            let TokenReview { is_authenticated, error, audiences, user, node } = review;
            Ok(Review { is_authenticated, error, audiences, user, node })
        })
    }
}
