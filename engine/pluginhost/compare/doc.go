// Package compare holds what two versions of a protocol plugin do with the same
// events against each other: the one that runs, or ran when a recording was
// made, and the next one. What the next one does is never carried out.
//
// They are compared by meaning: the stream of bytes that is sent, with the
// payload in it; what becomes of each byte that is received; the result of each
// request; limits, timers, and what the session is told. Where a version cuts
// its actions, and in which call it gives them, does not count: streams are
// compared by position and results by request, and whenever the running version
// holds no request any more both must have said the same. Log lines and Want are
// no meaning.
//
// What cannot be compared is said and not guessed: see Limit.
//
// The package knows no sockets, files or volumes. Read first: Follower, which
// hands the events to an instance, and Comparison, which looks at the actions.
package compare
