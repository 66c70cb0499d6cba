// Words of ASCII texts and their tokens: a tokenizer for models that do little besides tokenizing.
//
// BERT's tokenizer looks at each word by itself, and in ASCII its normalizer does no more than lower the case. So a
// word that was seen once is looked up from then on. What a word's tokens are, the caller learns elsewhere and adds.
#pragma once

#include <cstdint>
#include <functional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quaver {

class WordPieces {
public:
  // Words with more characters are not kept: a text that has one is not read.
  static constexpr std::size_t kLongestWord = 128;

  // What was read of N texts.
  struct Tokens {
    std::vector<std::int32_t> ids;    // of the texts that were read, one after the other
    std::vector<std::int32_t> counts; // (N,); -1 for a text that was not read
    std::vector<std::string> missing; // words that kept texts from being read, sorted, each once
  };

  // A text that holds one of the added tokens is not read, nor one with control characters.
  WordPieces(bool lowercase, std::vector<std::string> added);

  // Adds words, ids[offsets[i]:offsets[i + 1]] to the i-th. Words that it has stay as they are.
  void add(const std::vector<std::string> &words, std::span<const std::int32_t> ids,
           std::span<const std::int32_t> offsets);

  // Reads ASCII texts, each up to the token behind the first `most`. A word is looked up here, then in `more`, which
  // is not this object. Threads may read and add at the same time.
  Tokens read(std::span<const std::string_view> texts, std::size_t most, const WordPieces *more) const;

  std::size_t size() const;

private:
  struct Pieces {
    std::size_t first, count; // in ids_
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const { return std::hash<std::string_view>{}(word); }
  };

  bool append(std::string_view word, std::vector<std::int32_t> &ids) const;

  const bool lowercase_;
  const std::vector<std::string> added_;
  mutable std::shared_mutex mutex_; // of what follows
  std::unordered_map<std::string, Pieces, Hash, std::equal_to<>> words_;
  std::vector<std::int32_t> ids_;
};

} // namespace quaver
