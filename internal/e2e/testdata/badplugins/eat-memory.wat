;; Grows its memory until there is no more, and goes on beyond.
(func $request (param $p i32)
  (block $full
    (loop $l
      (br_if $full (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
      (br $l)))
  (i64.store (i32.mul (memory.size) (i32.const 65536)) (i64.const 1)))
