package config

import (
	"testing"
	"time"
)

func TestDeviceDefaults(t *testing.T) {
	cfg := parse(t, `
[engine]
lock_memory = true
[[volume]]
name = "v"
plugin = "memory"
timeout = "7s"
fence = "2s"
[[export]]
name = "u"
volume = "v"
frontend = "ublk"
[[export]]
name = "k"
volume = "v"
frontend = "nbd-kernel"
`)
	same(t, "lock_memory", cfg.Engine.LockMemory, true)
	u, k := cfg.Exports[0], cfg.Exports[1]
	same(t, "frontend", u.Frontend, FrontendUblk)
	same(t, "device", u.Device, AnyDevice)
	same(t, "queues", u.Queues, 1)
	same(t, "depth", u.Depth, DefaultDepth)
	same(t, "max_io", u.MaxIO, DefaultMaxIO)
	same(t, "recovery", u.Recovery, RecoveryReissue)
	same(t, "copy", u.Copy, CopyAuto)
	same(t, "buffers", u.Buffers, 0)
	same(t, "on_stop", u.OnStop, OnStopKeep)
	same(t, "frontend", k.Frontend, FrontendNBDKernel)
	same(t, "connections", k.Connections, 1)
	same(t, "dead_conn_timeout", k.DeadConnTimeout, DefaultDeadConnTimeout)
	same(t, "request_timeout is what the volume may take, and more", k.RequestTimeout, 9*time.Second+RequestMargin)
	same(t, "socket", cfg.NBDKernelSocket(), Address{"unix", cfg.Engine.StateDir + "/nbd-kernel.sock"})
}

func TestDeviceKeys(t *testing.T) {
	cfg := parse(t, `
[[volume]]
name = "v"
plugin = "memory"
[[export]]
name = "u"
volume = "v"
frontend = "ublk"
device = 5
queues = 4
depth = 256
max_io = "1MiB"
recovery = "none"
copy = "get-data"
buffers = "2MiB"
unprivileged = true
on_stop = "remove"
[[export]]
name = "k"
volume = "v"
frontend = "nbd-kernel"
device = 5
connections = 3
dead_conn_timeout = "30s"
request_timeout = "200s"
`)
	u, k := cfg.Exports[0], cfg.Exports[1]
	same(t, "device", u.Device, 5)
	same(t, "queues", u.Queues, 4)
	same(t, "depth", u.Depth, 256)
	same(t, "max_io", u.MaxIO, MiB)
	same(t, "recovery", u.Recovery, RecoveryNone)
	same(t, "copy", u.Copy, CopyGetData)
	same(t, "buffers", u.Buffers, 2*MiB)
	same(t, "unprivileged", u.Unprivileged, true)
	same(t, "on_stop", u.OnStop, OnStopRemove)
	same(t, "device", k.Device, 5)
	same(t, "connections", k.Connections, 3)
	same(t, "dead_conn_timeout", k.DeadConnTimeout, 30*time.Second)
	same(t, "request_timeout", k.RequestTimeout, 200*time.Second)
}
