// Words and their tokens: what is read, what is left to the caller, and threads that add while others read.
#include "check.h"

#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "words/word_pieces.h"

using quaver::WordPieces;

namespace {

constexpr std::size_t kAll = static_cast<std::size_t>(-1);

WordPieces::Tokens read(const WordPieces &words, const std::vector<std::string> &texts, std::size_t most = kAll,
                        const WordPieces *more = nullptr) {
  return words.read(std::vector<std::string_view>(texts.begin(), texts.end()), most, more);
}

bool same(const std::vector<std::int32_t> &found, std::initializer_list<std::int32_t> wanted) {
  return found == std::vector<std::int32_t>(wanted);
}

void test_reading() {
  WordPieces words(true, {"[MASK]"});
  words.add({"a", "bc", "!", "empty"}, std::vector<std::int32_t>{1, 2, 3, 4}, std::vector<std::int32_t>{0, 1, 3, 4, 4});
  const auto all = read(words, {" A bc\t!\r\na", "", "empty", "!!"});
  CHECK(same(all.ids, {1, 2, 3, 4, 1, 4, 4}), "%zu ids", all.ids.size());
  CHECK(same(all.counts, {5, 0, 0, 2}) && all.missing.empty(), "%zu texts", all.counts.size());

  const auto some = read(words, {"a zz Yy a yy", "[MASK]", "a\x01", "a\x7f", "\xc3\xa9", "[mask", "a"});
  CHECK(same(some.counts, {-1, -1, -1, -1, -1, -1, 1}) && same(some.ids, {1}), "%zu ids", some.ids.size());
  CHECK((some.missing == std::vector<std::string>{"[", "mask", "yy", "zz"}), "%zu missing", some.missing.size());

  const std::string longest(WordPieces::kLongestWord, 'x');
  const auto wide = read(words, {longest, longest + "x"});
  CHECK(wide.missing.size() == 1 && wide.missing[0] == longest, "%zu missing", wide.missing.size());

  WordPieces more(true, {});
  more.add({"zz", "a"}, std::vector<std::int32_t>{9, 8}, std::vector<std::int32_t>{0, 1, 2});
  CHECK(same(read(words, {"zz a"}, kAll, &more).ids, {9, 1}), "its own words come first");
  CHECK(same(read(words, {"a bc bc bc", "a a"}, 2).counts, {3, 2}), "a text is read no further than needed");

  CHECK(same(read(words, {"a\x01z", "a \x01"}, 0).counts, {-1, 1}), "a control character joins words");

  words.add({"a"}, std::vector<std::int32_t>{7}, std::vector<std::int32_t>{0, 1});
  CHECK(words.size() == 4 && same(read(words, {"a"}).ids, {1}), "a word stays as it is");
  CHECK(same(read(WordPieces(false, {}), {"A"}).counts, {-1}), "case is kept");
}

void test_threads() {
  WordPieces words(false, {});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&words, t] {
      for (int i = 0; i < 500; ++i) {
        const std::string word = std::to_string(i * (t % 2 + 1));
        words.add({word}, std::vector<std::int32_t>{std::stoi(word)}, std::vector<std::int32_t>{0, 1});
        if (!same(read(words, {word}).ids, {std::stoi(word)}))
          std::abort();
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  CHECK(words.size() == 750, "%zu words", words.size());
}

} // namespace

int main() {
  test_reading();
  test_threads();
  return quaver::testing::report("words");
}
