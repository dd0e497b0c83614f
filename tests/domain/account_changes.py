"""Steps of an account's life and the change they make; ``account_steps.py`` explains them."""

from __future__ import annotations

# promise: steps, the lines of the change that is not yet taken after them
CHANGES: dict[str, tuple[str, str]] = {
    "nothing happened": ("", ""),
    "the first event of an hour": (
        "2026-01-14T15:10 counts api=5",
        """
        introduces
        block 14 15:10 api
        hourly 2026011415 open api=5/1
        """,
    ),
    "a batch is found by each of its types": (
        "2026-01-14T15:10 counts disk=3 api=5 disk=1 api=0.7",
        """
        introduces
        block 14 15:10 disk
        block 14 15:10 api
        hourly 2026011415 open disk=4/2 api=5.7/2
        """,
    ),
    "what happens between two commits is one change": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:20 counts api=7 disk=3
        """,
        """
        introduces
        block 14 15:10 api
        block 14 15:20 api
        block 14 15:20 disk
        hourly 2026011415 open api=12/2 disk=3/1
        """,
    ),
    "later events of an hour introduce nobody": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:11 commit
        2026-01-14T15:59 counts api=7
        """,
        """
        block 14 15:59 api
        hourly 2026011415 open api=12/2
        """,
    ),
    "another hour starts anew while the last is still open": (
        """
        2026-01-14T15:59 counts api=5
        2026-01-14T15:59 commit
        2026-01-14T16:00 counts api=7
        """,
        """
        introduces
        block 14 16:00 api
        hourly 2026011416 open api=7/1
        """,
    ),
    "a closed hour is handed up to its day": (
        """
        2026-01-14T15:10 counts api=5 api=7 disk=3
        2026-01-14T15:11 commit
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=12/2 disk=3/1
        daily 20260114 open api=12/2 disk=3/1
        acme_hourly_2026011415 closed api=12/2 disk=3/1 created 14 16:05 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        """,
    ),
    "a day gathers its hours": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T16:05 close hourly
        2026-01-14T16:05 commit
        2026-01-14T16:10 counts api=7
        2026-01-14T16:10 commit
        2026-01-14T17:05 close hourly
        """,
        """
        hourly 2026011416 closed api=7/1
        daily 20260114 open api=12/2
        acme_hourly_2026011416 closed api=7/1 created 14 17:05 computed 14 17:05
        to billing: 2026011416 at 14 17:05
        """,
    ),
    "a closed day is handed up to its week, month and year": (
        """
        2026-01-14T23:10 counts api=5 api=7
        2026-01-15T00:05 close hourly
        2026-01-15T00:05 commit
        2026-01-15T00:05 close daily
        """,
        """
        daily 20260114 closed api=12/2
        weekly 202603 open api=12/2
        monthly 202601 open api=12/2
        yearly 2026 open api=12/2
        acme_daily_20260114 closed api=12/2 created 15 00:05 computed 15 00:05
        to billing: 20260114 at 15 00:05
        """,
    ),
    "week, month and year end by themselves, and hand up to nobody": (
        """
        2023-12-31T23:59 counts api=5
        2024-01-01T00:05 close hourly daily
        2024-01-01T00:05 commit
        2024-01-01T00:05 close weekly monthly yearly
        """,
        """
        weekly 202352 closed api=5/1
        monthly 202312 closed api=5/1
        yearly 2023 closed api=5/1
        acme_weekly_202352 closed api=5/1 created 01 00:05 computed 01 00:05
        acme_monthly_202312 closed api=5/1 created 01 00:05 computed 01 00:05
        acme_yearly_2023 closed api=5/1 created 01 00:05 computed 01 00:05
        to billing: 202352 at 01 00:05
        to billing: 202312 at 01 00:05
        to billing: 2023 at 01 00:05
        """,
    ),
    "closing again before the commit changes nothing": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:10 commit
        2026-01-14T16:05 close hourly
        2026-01-14T16:06 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        acme_hourly_2026011415 closed api=5/1 created 14 16:05 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        """,
    ),
    "closing again after the commit changes nothing": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T16:05 close hourly
        2026-01-14T16:05 commit
        2026-01-14T16:06 close hourly
        """,
        "",
    ),
    "a period without events gets nothing": (
        "2024-01-01T00:05 close hourly daily weekly monthly yearly",
        "",
    ),
    "a running period without events gets nothing": (
        "2024-01-01T00:05 snapshot hourly daily weekly monthly yearly",
        "",
    ),
    "a snapshot counts what is not yet handed up, and changes no totals": (
        """
        2026-01-13T10:00 counts api=1
        2026-01-13T11:05 close hourly
        2026-01-14T00:05 close daily
        2026-01-14T15:10 counts api=20
        2026-01-14T16:05 close hourly
        2026-01-14T16:06 counts api=300
        2026-01-14T16:07 commit
        2026-01-14T16:08 snapshot hourly daily weekly monthly yearly
        """,
        """
        acme_hourly_2026011416 open api=300/1 created 14 16:08 computed 14 16:08
        acme_daily_20260114 open api=320/2 created 14 16:08 computed 14 16:08
        acme_weekly_202603 open api=321/3 created 14 16:08 computed 14 16:08
        acme_monthly_202601 open api=321/3 created 14 16:08 computed 14 16:08
        acme_yearly_2026 open api=321/3 created 14 16:08 computed 14 16:08
        """,
    ),
    "a clock that steps back into a closed hour counts nothing twice": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T16:05 close hourly
        2026-01-14T16:05 commit
        2026-01-14T15:59 snapshot daily
        """,
        "acme_daily_20260114 open api=5/1 created 14 15:59 computed 14 15:59",
    ),
    "a later snapshot keeps when the first was created": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:20 snapshot hourly
        2026-01-14T15:21 commit
        2026-01-14T15:30 counts api=7
        2026-01-14T15:31 commit
        2026-01-14T15:40 snapshot hourly
        """,
        "acme_hourly_2026011415 open api=12/2 created 14 15:20 computed 14 15:40",
    ),
    "a snapshot stops neither the close nor its delivery": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:20 snapshot hourly
        2026-01-14T15:21 commit
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        acme_hourly_2026011415 closed api=5/1 created 14 15:20 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        """,
    ),
    "nor does one that is not yet on disk": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:10 commit
        2026-01-14T15:59 snapshot hourly
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        acme_hourly_2026011415 closed api=5/1 created 14 15:59 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        """,
    ),
    "types no longer configured are left out, and handed up": (
        """
        2026-01-14T15:10 counts api=5 disk=3
        2026-01-14T15:10 commit
        2026-01-14T16:00 configure disk=max
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1 disk=3/1
        daily 20260114 open api=5/1 disk=3/1
        acme_hourly_2026011415 closed disk=3/1 created 14 16:05 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        """,
    ),
    "with none configured any more the period closes in silence": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:10 commit
        2026-01-14T16:00 configure disk=max
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        """,
    ),
    "a period nobody asked for is handed up in silence": (
        """
        2026-01-14T23:10 counts api=5
        2026-01-14T23:10 commit
        2026-01-15T00:00 publish daily
        2026-01-15T00:05 close hourly daily
        """,
        """
        hourly 2026011423 closed api=5/1
        daily 20260114 closed api=5/1
        weekly 202603 open api=5/1
        monthly 202601 open api=5/1
        yearly 2026 open api=5/1
        acme_daily_20260114 closed api=5/1 created 15 00:05 computed 15 00:05
        to billing: 20260114 at 15 00:05
        """,
    ),
    "an operation changed in mid-period holds for all of it": (
        """
        2026-01-14T22:10 counts api=5 api=9
        2026-01-14T23:05 close hourly
        2026-01-14T23:06 configure api=min
        2026-01-14T23:10 counts api=7
        2026-01-15T00:05 close hourly
        2026-01-15T00:05 commit
        2026-01-15T00:05 configure api=avg
        2026-01-15T00:05 close daily
        """,
        """
        daily 20260114 closed api=21/3
        weekly 202603 open api=21/3
        monthly 202601 open api=21/3
        yearly 2026 open api=21/3
        acme_daily_20260114 closed api=7/3 created 15 00:05 computed 15 00:05
        to billing: 20260114 at 15 00:05
        """,
    ),
    "without endpoints there is nothing to deliver": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:10 commit
        2026-01-14T16:00 endpoints
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        acme_hourly_2026011415 closed api=5/1 created 14 16:05 computed 14 16:05
        """,
    ),
    "each endpoint gets its own delivery": (
        """
        2026-01-14T15:10 counts api=5
        2026-01-14T15:10 commit
        2026-01-14T16:00 endpoints billing crm
        2026-01-14T16:05 close hourly
        """,
        """
        hourly 2026011415 closed api=5/1
        daily 20260114 open api=5/1
        acme_hourly_2026011415 closed api=5/1 created 14 16:05 computed 14 16:05
        to billing: 2026011415 at 14 16:05
        to crm: 2026011415 at 14 16:05
        """,
    ),
}
