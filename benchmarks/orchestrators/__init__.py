"""What orchestration costs: Sidestage, its peers, and the least that durable tasks can cost, in one run."""
