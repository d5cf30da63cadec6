package compare

// requestLog remembers the last requests with where in the sent stream they
// stand, to name the one whose bytes differ.
type requestLog struct {
	list   [logged]loggedRequest
	n      uint64 // ever added
	groups [loggedGroups]group
	g      uint64 // ever begun
}

const (
	logged       = 2048
	loggedGroups = 256
)

type loggedRequest struct {
	Request
	payload uint64 // where its payload began to be sent, +1; 0: nowhere
}

// group are the requests of one call.
type group struct {
	call  uint64
	sent  uint64 // stream position when it began
	first uint64 // index of its first request
}

func (l *requestLog) group(call, sent uint64) {
	l.groups[l.g%loggedGroups] = group{call, sent, l.n}
	l.g++
}

func (l *requestLog) add(r Request) (index uint64) {
	l.list[l.n%logged] = loggedRequest{Request: r}
	l.n++
	return l.n - 1
}

// payload notes where the payload of request index begins.
func (l *requestLog) payload(index, sent uint64) {
	if r := &l.list[index%logged]; l.n-index <= logged && r.payload == 0 {
		r.payload = sent + 1
	}
}

// at names the request whose bytes stand at a position of the sent stream, which
// now ends at end: the first of several if the position does not tell.
func (l *requestLog) at(pos, end uint64) (call uint64, r Request, of int) {
	last, until := l.n, end
	for i := l.g; i > 0 && l.g-i < loggedGroups; i-- {
		g := &l.groups[(i-1)%loggedGroups]
		if g.sent <= pos && (until > pos || pos == end && g.first < last) { // what comes at the end follows from the last requests
			if g.first == last || l.n-g.first > logged { // a timer's doing, for instance; or too long ago
				return g.call, Request{}, 0
			}
			r, of = l.within(pos, g.sent, until, g.first, last)
			return g.call, r, of
		}
		last, until = g.first, g.sent
	}
	return 0, Request{}, 0
}

// within looks at requests [first, last), whose bytes are [from, to). Those with
// payload are marks; between two of them each request is taken to have as many
// bytes as its neighbours.
func (l *requestLog) within(pos, from, to, first, last uint64) (Request, int) {
	for i := first; i < last; i++ {
		r := &l.list[i%logged]
		if r.payload == 0 {
			continue
		}
		at := r.payload - 1
		if pos < at {
			return l.evenly(pos, from, at, first, i+1)
		}
		if pos < at+r.Length {
			return r.Request, 1
		}
		from, first = at+r.Length, i+1
	}
	if first == last {
		return l.list[(last-1)%logged].Request, 1
	}
	return l.evenly(pos, from, to, first, last)
}

func (l *requestLog) evenly(pos, from, to, first, last uint64) (Request, int) {
	n := last - first
	if n > 1 && to > from && pos >= from && (to-from)%n == 0 {
		return l.list[(first+(pos-from)/((to-from)/n))%logged].Request, 1
	}
	return l.list[first%logged].Request, int(n)
}
