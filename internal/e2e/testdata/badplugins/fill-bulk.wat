;; Fills memory in bulk, again and again.
(func $request (param $p i32)
  (loop $l
    (memory.fill (i32.const 0x20000) (i32.const 7) (i32.const 0x10000))
    (br $l)))
