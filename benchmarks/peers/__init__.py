"""The peers, in the order of the tables."""

from benchmarks.peers.bus_pool import BusPoolPeer
from benchmarks.peers.faster_fifo_queue import FasterFifoPeer
from benchmarks.peers.iceoryx import IceoryxPeer
from benchmarks.peers.joinable_queue import JoinableQueuePeer
from benchmarks.peers.lahja_endpoint import LahjaPeer
from benchmarks.peers.manager_queue import ManagerQueuePeer
from benchmarks.peers.mp_queue import QueuePeer
from benchmarks.peers.multiprocess_pool import MultiprocessPoolPeer
from benchmarks.peers.nats_jetstream import NatsPeer
from benchmarks.peers.process_pool import ExecutorPeer
from benchmarks.peers.redis_streams import BATCH, RedisPeer
from benchmarks.peers.zmq_ipc import ZmqPeer
from eventbus_mp.bench.bus import BusPeer, LoanPeer
from eventbus_mp.bench.interface import Data, Layout, Peer, Rig

__all__ = ["BUSES", "PEERS", "Data", "Layout", "Peer", "Rig"]

PEERS: tuple[Peer, ...] = (
    BusPeer("bus"),
    BusPeer("bus-notify-many", batch=256),
    LoanPeer("bus-loan"),
    BusPoolPeer(),
    QueuePeer(),
    JoinableQueuePeer(),
    ManagerQueuePeer(),
    ZmqPeer(),
    FasterFifoPeer(),
    LahjaPeer(),
    IceoryxPeer("iceoryx2"),
    IceoryxPeer("iceoryx2-events", events=True),
    IceoryxPeer("iceoryx2-loan", loans=True),
    RedisPeer("redis-streams", batch=1),
    RedisPeer("redis-pipelined", batch=BATCH),
    NatsPeer(),
    ExecutorPeer(),
    MultiprocessPoolPeer("multiprocess.Pool", chunk=1),
    MultiprocessPoolPeer("multiprocess.Pool-chunks", chunk=64),
)

BUSES = ("bus", "bus-WorkerPool")
"""What the others are compared with: the first of these that takes part."""
