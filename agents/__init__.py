"""The reference team: five agents that turn conversations into bookings, each readable in a minute.

Start with `inquiry`, `scheduling`, `provider`, `document` and `concierge`; `events` says what flows between them.
"""
