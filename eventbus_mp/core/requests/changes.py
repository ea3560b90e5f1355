"""Requests of those who follow the changes of topics and subscribers."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.handling import ANSWERED_LATER, handles
from eventbus_mp.core.state import Step, check_waits
from eventbus_mp.protocol import requests


@handles(requests.FollowChanges)
def follow_changes(step: Step, link: LinkState, message: requests.FollowChanges) -> Any:
    changes = step.state.changes
    if (link.number, message.follower) not in changes.followers:
        check_waits(sum(number == link.number for number, _ in changes.followers), "changes")
    changes.follow(link.number, message.follower, message.request)
    return ANSWERED_LATER  # At the end of this message, if there is something.


@handles(requests.StopFollowing)
def stop_following(step: Step, link: LinkState, message: requests.StopFollowing) -> None:
    step.state.changes.leave(link.number, message.follower)
