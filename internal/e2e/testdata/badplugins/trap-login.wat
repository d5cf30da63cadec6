;; Traps when its connection is there.
(func $opened (unreachable))
