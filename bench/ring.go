package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/internal/vhosttest"
)

// attempts is how often a back-end may close a connection.
const attempts = 3

// queueSize is that of the virtqueues that are measured.
const queueSize = 256

// driveRing puts a load on a vhost-user-blk back-end through one virtqueue, as a
// guest would, from a thread of this process.
func driveRing(ctx context.Context, in *instance, l load, d time.Duration) (outcome, error) {
	o := vhosttest.LoadOptions{
		Options: vhosttest.Options{Socket: in.socket, QueueSize: queueSize},
		Depth:   l.depth, BlockSize: l.block, Length: regionSize, Sequential: l.rw == "read",
		Poll: l.guest != sleeping, Run: d,
	}
	if l.rw != "randwrite" {
		o.ReadPercent = 100
	}
	if l.guest == untracked {
		o.Options.WithoutProtocol = vhosttest.PInflight
	}
	ctx, cancel := context.WithTimeout(ctx, limit(d))
	defer cancel()
	var r *vhosttest.LoadResult
	var err error
	for range attempts {
		if r, err = vhosttest.Run(ctx, o); err == nil {
			err = r.Bad()
		}
		if !errors.Is(err, vhosttest.ErrLost) {
			break
		}
		time.Sleep(time.Second) // a back-end may still be busy with the connection before
	}
	if err != nil {
		return outcome{}, fmt.Errorf("the virtqueue's client: %w", err)
	}
	return outcome{requests: int(r.Completed()), iops: r.IOPS(), p50: micros(r.Latency.P50), p99: micros(r.Latency.P99)}, nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// fillRing writes the region that is used once.
func fillRing(ctx context.Context, in *instance) error {
	_, err := driveRing(ctx, in, load{rw: "randwrite", block: 4 << 10, depth: 64, guest: polling}, 2*time.Second)
	return err
}
