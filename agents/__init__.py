"""The reference team: agents that turn conversations into bookings, each readable in a minute.

Start with `inquiry`, `concierge`, `scheduling` and `document`; `events` says what flows between them. `review` and
`desk` look at what is uncertain, `calendar` and `provider` stand in for the world outside.
"""
