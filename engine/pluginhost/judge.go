package pluginhost

import (
	"fmt"
	"time"

	"blockengine/engine/session"
)

// How a generation is judged after the cutover. The figures are coarse on
// purpose: going back costs the clients another pause, so it must not be done
// because of noise, but a version that is really bad must not stay for long.
const (
	// judgeWindow is the least that latency is averaged over. A window goes on
	// until enough requests have ended in it, so that a version that is so slow
	// that few do is judged as well.
	judgeWindow = 250 * time.Millisecond
	// enoughRequests make a mean that means something.
	enoughRequests = 20
	// A window is slow when its mean is slowTimes the old generation's and
	// slowBy above it: of a disk that answers in 20 µs four times as much is
	// nothing that anybody notices, and is within what a busy host does.
	slowTimes = 4
	slowBy    = 250 * time.Microsecond
	// slowWindows in a row are no accident, such as a snapshot on the server.
	slowWindows = 3
	// Fewer than fewErrors are always let pass: clients provoke some themselves.
	fewErrors = 5
	// The rate of errors may be errorTimes the old generation's and errorSlack
	// more.
	errorTimes = 2
	errorSlack = 0.01
	// refusedLimit is how many connections may fail while none is there: a server
	// that closes one of them, or is slow to come, is no fault of the plugin's.
	refusedLimit = 3
	// stallLimit is for how long a version may leave a request without an answer:
	// long enough for a server that stutters, and short enough that the request
	// is answered by the version before in time. It does not say who is to blame,
	// and if it is the server nothing is lost by having gone back.
	stallLimit = 3 * time.Second
)

// Reasons of a rollback, as UpgradeCounters.Rollbacks counts them.
const (
	reasonOperator    = "operator"
	reasonTraps       = "traps"
	reasonContract    = "contract"
	reasonConnections = "connections"
	reasonStalled     = "stalled"
	reasonErrors      = "errors"
	reasonLatency     = "latency"
)

// verdict is why a generation is to go.
type verdict struct {
	reason string
	text   string // for people: continues "generation 2 …"
}

// sample is what a volume's generation looked like at a time.
type sample struct {
	at     time.Duration // since the cutover
	health session.Health
	online int // connections that are
}

// judge compares a volume's new generation with the old one. It is a function
// of the samples that it is shown, in the order of time.
type judge struct {
	reads, writes class
}

// class is one kind of requests.
type class struct {
	name  string
	base  session.Load  // what the old generation did
	from  session.Load  // at the start of the window
	since time.Duration // of the window
	slow  int           // windows in a row
}

// newJudge judges by what the old generation did under the same load.
func newJudge(base session.Health) *judge {
	return &judge{reads: class{name: "reads", base: base.Reads}, writes: class{name: "writes and flushes", base: base.Writes}}
}

// unjudged names what latency cannot be judged of, because the old generation
// had too few of them to compare with.
func (j *judge) unjudged() (names []string) {
	for _, c := range []*class{&j.reads, &j.writes} {
		if c.base.Requests < enoughRequests {
			names = append(names, c.name)
		}
	}
	return names
}

// see takes the next sample and gives a verdict, nil as long as all is well.
// health counts from the cutover.
func (j *judge) see(s sample) *verdict {
	if v := distrust(s); v != nil {
		return v
	}
	if v := j.reads.see(s.at, s.health.Reads); v != nil {
		return v
	}
	return j.writes.see(s.at, s.health.Writes)
}

// distrust finds what a plugin is not to be trusted after: its connections are
// not drained in order then but cut.
func distrust(s sample) *verdict {
	switch h := s.health; {
	case h.Traps > 0:
		return &verdict{reasonTraps, "has trapped"}
	case h.Violations > 0:
		return &verdict{reasonContract, "has broken the plugin contract"}
	case h.Refused >= refusedLimit && s.online == 0:
		return &verdict{reasonConnections, fmt.Sprintf("has no connection: %d could not be had", h.Refused)}
	case h.Oldest >= stallLimit:
		return &verdict{reasonStalled, fmt.Sprintf("has not answered a request for %v", h.Oldest.Round(time.Millisecond))}
	}
	return nil
}

func (c *class) see(at time.Duration, l session.Load) *verdict {
	inWindow := less(l, c.from)
	for _, span := range []session.Load{l, inWindow} {
		if v := c.errors(span); v != nil {
			return v
		}
	}
	if at-c.since < judgeWindow || inWindow.Requests < enoughRequests {
		return nil
	}
	c.from, c.since = l, at
	return c.latency(inWindow)
}

// errors judges the rate of errors. It is asked for the whole time and for the
// window, because a version that goes bad late has many good requests behind
// it.
func (c *class) errors(l session.Load) *verdict {
	allowed := errorTimes*rate(c.base) + errorSlack
	if l.Errors < fewErrors || rate(l) <= allowed {
		return nil
	}
	return &verdict{reasonErrors, fmt.Sprintf("fails %d of %d %s, the one before failed %d of %d",
		l.Errors, l.Requests, c.name, c.base.Errors, c.base.Requests)}
}

// latency judges a window that has ended.
func (c *class) latency(l session.Load) *verdict {
	if c.base.Requests < enoughRequests {
		return nil
	}
	now, before := mean(l), mean(c.base)
	if now <= slowTimes*before || now <= before+slowBy {
		c.slow = 0
		return nil
	}
	c.slow++
	if c.slow < slowWindows {
		return nil
	}
	return &verdict{reasonLatency, fmt.Sprintf("takes %v for %s, the one before took %v",
		now.Round(time.Microsecond), c.name, before.Round(time.Microsecond))}
}

func rate(l session.Load) float64 {
	if l.Requests == 0 {
		return 0
	}
	return float64(l.Errors) / float64(l.Requests)
}

func mean(l session.Load) time.Duration {
	if l.Requests == 0 {
		return 0
	}
	return time.Duration(l.NS / l.Requests)
}

// less gives what came to l after old. Samples are not taken at one instant:
// a sum may be a request ahead of its count.
func less(l, old session.Load) session.Load {
	return session.Load{Requests: l.Requests - old.Requests, Errors: l.Errors - old.Errors, NS: l.NS - old.NS}
}
