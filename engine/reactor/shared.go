package reactor

// Shared gives what was shared under key on this reactor, nil if nothing was.
// It is for things of which a reactor has one that many use, a ring for
// example; who makes one shares it, and withdraws it when it ends.
func (r *Reactor) Shared(key any) any { return r.shared[key] }

// Share has Shared give v for key from now on, a type of the caller's own; nil
// withdraws it.
func (r *Reactor) Share(key, v any) {
	if v == nil {
		delete(r.shared, key)
		return
	}
	if r.shared == nil {
		r.shared = map[any]any{}
	}
	r.shared[key] = v
}
