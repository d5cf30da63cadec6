package main

import (
	"fmt"

	"blockengine/frontends/ublk"
)

// short is a status in a line.
func short(s ublk.Status) string {
	return fmt.Sprintf("%s %v %q recovered=%v queues=%d depth=%d size=%d inflight=%d again=%d owed=%d copy=%v buffers=%d missed=%d passed=%d",
		s.Path, s.State, s.Problem, s.Recovered, s.Queues, s.Depth, s.Size, s.InFlight, s.Again, s.Owed, s.Copy, s.Buffers, s.Missed, s.Passed)
}
