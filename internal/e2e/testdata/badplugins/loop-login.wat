;; Loops for ever when its connection is there.
(func $opened (loop $l (br $l)))
