"""The peers, in the order of the tables. The first one is what the others are compared with."""

from benchmarks.peers.bus import BusPeer
from benchmarks.peers.interface import Data, Peer, Rig, Ticket
from benchmarks.peers.mp_queue import QueuePeer

__all__ = ["PEERS", "Data", "Peer", "Rig", "Ticket"]

PEERS: tuple[Peer, ...] = (BusPeer("bus"), BusPeer("bus-notify-many", batch=256), QueuePeer())
