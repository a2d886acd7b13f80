"""Who may use what: grants, policy, ban lists, requests, and the names of peers, services and targets."""
