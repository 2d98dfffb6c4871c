"""Who may let what run: policy, digests, decisions and the audit chain."""
