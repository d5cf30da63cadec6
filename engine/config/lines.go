package config

// node is where a value stands in the source. Its shape follows the decoded
// value: a table has keys, a list has items, anything else has neither.
//
// The TOML library gives positions for syntax errors only. So the source is
// read a second time, for nothing but positions; the values stay the library's.
type node struct {
	line   int // of the key or header, counted from 1
	offset int // in bytes; orders keys of one table by appearance
	depth  int // below the root
	keys   map[string]*node
	items  []*node
}

// child is the node of a table's key, or nil. It may be called on nil.
func (n *node) child(key string) *node {
	if n == nil {
		return nil
	}
	return n.keys[key]
}

// item is the node of a list's element, or nil. It may be called on nil.
func (n *node) item(i int) *node {
	if n == nil || i >= len(n.items) {
		return nil
	}
	return n.items[i]
}

// key gives the node of a table's key, made at the place given if it is new.
func (n *node) key(key string, line, offset int) *node {
	if c := n.keys[key]; c != nil {
		return c
	}
	if n.keys == nil {
		n.keys = make(map[string]*node)
	}
	c := &node{line: line, offset: offset, depth: n.depth + 1}
	n.keys[key] = c
	return c
}

// grow appends an element to a list.
func (n *node) grow(line, offset int) *node {
	item := &node{line: line, offset: offset, depth: n.depth + 1}
	n.items = append(n.items, item)
	return item
}

// last is the table that a further key of this name goes to: for a list of
// tables its newest.
func (n *node) last() *node {
	if len(n.items) > 0 {
		return n.items[len(n.items)-1]
	}
	return n
}

// header is a [table] or [[list of tables]] line.
func (s *scanner) header(root *node) *node {
	line, offset := s.line, s.pos
	s.pos++ // the '[' that brought us here
	list := s.accept('[')
	path := s.key()
	if !s.expect(']') || (list && !s.expect(']')) {
		return root
	}
	n := s.descend(root, path, line, offset)
	if list {
		return n.grow(line, offset)
	}
	n.line, n.offset = line, offset // it may have been made by [x.y] before
	return n
}

// descend follows a dotted key and makes what is missing.
func (s *scanner) descend(n *node, path []string, line, offset int) *node {
	for _, part := range path {
		n = n.last().key(part, line, offset)
	}
	if n.depth > maxDepth {
		s.fail(errTooDeep)
	}
	return n
}

// keyValue is one `key = value`; the key may be dotted.
func (s *scanner) keyValue(table *node) {
	line, offset := s.line, s.pos
	path := s.key()
	if !s.expect('=') {
		return
	}
	n := s.descend(table, path, line, offset)
	s.skipSpace()
	s.value(n)
}

// value steps over a value and notes what stands inside it in n.
func (s *scanner) value(n *node) {
	if n.depth > maxDepth {
		s.fail(errTooDeep)
		return
	}
	switch s.peek() {
	case '"', '\'':
		s.skipString()
	case '[':
		s.array(n)
	case '{':
		s.inlineTable(n)
	default:
		s.skipBare()
	}
}

func (s *scanner) array(n *node) {
	s.pos++
	for s.err == nil {
		s.skipBlank()
		if s.accept(']') {
			return
		}
		s.value(n.grow(s.line, s.pos))
		s.skipBlank()
		if !s.accept(',') {
			s.expect(']')
			return
		}
	}
}

func (s *scanner) inlineTable(n *node) {
	s.pos++
	for s.err == nil {
		s.skipBlank()
		if s.accept('}') {
			return
		}
		s.keyValue(n)
		s.skipBlank()
		if !s.accept(',') {
			s.expect('}')
			return
		}
	}
}
