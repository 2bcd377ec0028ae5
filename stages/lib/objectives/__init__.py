"""Model + loss as one callable: batch -> {"loss": ...}."""
